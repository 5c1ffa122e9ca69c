package remote

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/minio/minio-go/v7"
)

// singlePut is up to which size an object is sent in one request, in bytes; others are sent in parts of that size.
const singlePut = 64 << 20

// firstPatience is for how long a server is tried that never answered.
const firstPatience = 10 * time.Second

// S3Options are the choices of OpenS3.
type S3Options struct {
	// Endpoint is the URL of the server; by default $AWS_ENDPOINT_URL_S3, $AWS_ENDPOINT_URL, or Amazon's.
	Endpoint string
	// Region by default is $AWS_REGION, $AWS_DEFAULT_REGION, or what the server says.
	Region string
	// Credentials says where they come from: "env", "profile:NAME", "file:PATH", "iam", "anonymous"; "" is the first of
	// the environment, the shared credentials file and the instance's role that has some.
	Credentials string
	// UploadLimit and DownloadLimit are in bytes a second; 0 is none.
	UploadLimit, DownloadLimit int64
	// Patience is for how long a request is tried that fails for reasons that may pass; 0 is two minutes. A server that
	// has not answered even once is not waited for as long: it may be the wrong one.
	Patience time.Duration

	transport http.RoundTripper // in tests
}

// S3 is a prefix of a bucket of an S3 server.
type S3 struct {
	Location
	client   *minio.Core
	wire     *wire
	patience time.Duration

	versioned, locked func() (bool, error) // asked once
}

// OpenS3 returns the bucket at a location. It sends no request yet.
func OpenS3(at Location, opts *S3Options) (*S3, error) {
	if opts == nil {
		opts = &S3Options{}
	}
	endpoint := cmp.Or(opts.Endpoint, os.Getenv("AWS_ENDPOINT_URL_S3"), os.Getenv("AWS_ENDPOINT_URL"), "https://s3.amazonaws.com")
	host, secure, err := parseEndpoint(endpoint)
	if err != nil {
		return nil, err
	}
	creds, err := findCredentials(opts.Credentials)
	if err != nil {
		return nil, err
	}
	w := newWire(opts)
	client, err := minio.NewCore(host, &minio.Options{
		Creds: creds, Secure: secure, Transport: w, MaxRetries: 1,
		Region: cmp.Or(opts.Region, os.Getenv("AWS_REGION"), os.Getenv("AWS_DEFAULT_REGION")),
	})
	if err != nil {
		return nil, fmt.Errorf("remote: %w", err)
	}
	b := &S3{Location: at, client: client, wire: w, patience: cmp.Or(opts.Patience, 2*time.Minute)}
	b.versioned, b.locked = sync.OnceValues(b.askVersioned), sync.OnceValues(b.askLocked)
	return b, nil
}

// Requests returns how many requests were sent so far, how many of them were tries after the first, and the bytes of their
// bodies and answers.
func (b *S3) Requests() Requests { return b.wire.count() }

// try repeats do while what it fails with may pass.
func (b *S3) try(ctx context.Context, do func() error) error {
	pace := backoff.NewExponentialBackOff()
	pace.InitialInterval, pace.MaxInterval = 100*time.Millisecond, 15*time.Second
	begun := time.Now()
	_, err := backoff.Retry(ctx, func() (struct{}, error) {
		err := do()
		if err != nil && (!mayPass(err) || !b.wire.answered.Load() && time.Since(begun) > firstPatience) {
			err = backoff.Permanent(err)
		}
		return struct{}{}, err
	}, backoff.WithBackOff(pace), backoff.WithMaxElapsedTime(b.patience), backoff.WithNotify(func(error, time.Duration) { b.wire.retries.Add(1) }))
	if permanent := (*backoff.PermanentError)(nil); errors.As(err, &permanent) {
		err = permanent.Err
	}
	if err == nil || errors.Is(err, ctx.Err()) {
		return err
	}
	return b.explain(err)
}

// Put implements Bucket. Of a key that is taken at a later try, it takes itself for the one who did it.
func (b *S3) Put(ctx context.Context, key string, body io.ReaderAt, size int64) error {
	opts := minio.PutObjectOptions{ContentType: "application/octet-stream", PartSize: singlePut}
	small := size <= singlePut
	if small {
		sum := crc32.New(crc32.MakeTable(crc32.Castagnoli))
		if _, err := io.Copy(sum, io.NewSectionReader(body, 0, size)); err != nil {
			return fmt.Errorf("remote: %w", err)
		}
		// The checksum is known from the start, so it goes before the body: a signature in pieces, and a checksum that
		// follows them, is slower, and not every server understands it.
		opts.UserMetadata = map[string]string{minio.ChecksumCRC32C.Key(): base64.StdEncoding.EncodeToString(sum.Sum(nil))}
		opts.DisableContentSha256 = true
		opts.SetMatchETagExcept("*")
	}
	tries := 0
	err := b.try(ctx, func() (err error) {
		tries++
		r := io.NewSectionReader(body, 0, size)
		if small {
			_, err = b.client.PutObject(ctx, b.Bucket, b.Prefix+key, r, size, "", "", opts)
		} else {
			_, err = b.client.Client.PutObject(ctx, b.Bucket, b.Prefix+key, r, size, opts)
		}
		return err
	})
	if tries > 1 && errors.Is(err, ErrObjectExists) {
		return nil
	}
	return err
}

// Read implements Bucket.
func (b *S3) Read(ctx context.Context, key string, limit int64) ([]byte, error) {
	var object []byte
	err := b.try(ctx, func() error {
		r, info, _, err := b.client.GetObject(ctx, b.Bucket, b.Prefix+key, minio.GetObjectOptions{})
		if err != nil {
			return err
		}
		defer r.Close()
		if info.Size > limit {
			return ErrTooLarge
		}
		p := make([]byte, info.Size)
		if _, err := io.ReadFull(r, p); err != nil {
			return err
		}
		object = p
		return nil
	})
	return object, err
}

// ReadAt implements Bucket.
func (b *S3) ReadAt(ctx context.Context, key string, p []byte, off int64) error {
	if len(p) == 0 {
		return nil
	}
	return b.try(ctx, func() error {
		opts := minio.GetObjectOptions{}
		if err := opts.SetRange(off, off+int64(len(p))-1); err != nil {
			return err
		}
		r, info, _, err := b.client.GetObject(ctx, b.Bucket, b.Prefix+key, opts)
		if err != nil {
			return err
		}
		defer r.Close()
		if info.Size < int64(len(p)) {
			return errTooShort
		}
		// Where it breaks off, the next try goes on.
		n, err := io.ReadFull(r, p)
		p, off = p[n:], off+int64(n)
		if err != nil {
			return err
		}
		return nil
	})
}

// List implements Bucket.
func (b *S3) List(ctx context.Context, prefix string, visit func(Object) error) error {
	last := ""
	var failed error // of visit
	err := b.try(ctx, func() error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		for o := range b.client.Client.ListObjects(ctx, b.Bucket, minio.ListObjectsOptions{Prefix: b.Prefix + prefix, Recursive: true, StartAfter: last}) {
			if o.Err != nil {
				return o.Err
			}
			if o.Key <= last {
				continue
			}
			last = o.Key
			if failed = visit(Object{Key: strings.TrimPrefix(o.Key, b.Prefix), Size: o.Size}); failed != nil {
				return nil
			}
		}
		return ctx.Err()
	})
	return cmp.Or(failed, err)
}
