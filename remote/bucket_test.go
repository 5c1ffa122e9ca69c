package remote

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/arcboxlabs/arcstore/bench/s3server"
)

// testBucket holds a bucket, under an empty prefix, to what Bucket promises.
func testBucket(t *testing.T, b Bucket) {
	ctx := context.Background()
	content := make([]byte, 300<<10)
	rand.NewChaCha8([32]byte{1}).Read(content)
	put := func(key string, b2 []byte) {
		t.Helper()
		if err := b.Put(ctx, key, bytes.NewReader(b2), int64(len(b2))); err != nil {
			t.Fatalf("put %s: %v", key, err)
		}
	}
	if _, err := b.Read(ctx, "nothing", 10); !errors.Is(err, ErrNoObject) {
		t.Errorf("reading what is not there: %v", err)
	}
	if err := b.ReadAt(ctx, "nothing", make([]byte, 5), 0); !errors.Is(err, ErrNoObject) {
		t.Errorf("reading a part of what is not there: %v", err)
	}
	put("a/one", content)
	put("a/empty", nil)
	put("b/ü +&=%", []byte("two"))
	if got, err := b.Read(ctx, "a/one", int64(len(content))); err != nil || !bytes.Equal(got, content) {
		t.Errorf("read: %d bytes, %v", len(got), err)
	}
	if got, err := b.Read(ctx, "a/empty", 0); err != nil || len(got) != 0 {
		t.Errorf("read an empty object: %q, %v", got, err)
	}
	if got, err := b.Read(ctx, "b/ü +&=%", 3); err != nil || string(got) != "two" {
		t.Errorf("read under an odd key: %q, %v", got, err)
	}
	if _, err := b.Read(ctx, "a/one", 100); !errors.Is(err, ErrTooLarge) {
		t.Errorf("reading more than wanted: %v", err)
	}
	for _, at := range [][2]int{{0, 1}, {17, 100000}, {len(content) - 1, 1}, {0, len(content)}} {
		p := make([]byte, at[1])
		if err := b.ReadAt(ctx, "a/one", p, int64(at[0])); err != nil || !bytes.Equal(p, content[at[0]:at[0]+at[1]]) {
			t.Errorf("read %d bytes at %d: %v", at[1], at[0], err)
		}
	}
	for _, at := range [][2]int{{len(content) - 1, 2}, {len(content), 1}, {len(content) + 1000, 7}} {
		if err := b.ReadAt(ctx, "a/one", make([]byte, at[1]), int64(at[0])); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("read %d bytes at %d, past the end: %v", at[1], at[0], err)
		}
	}
	if err := b.Put(ctx, "a/one", bytes.NewReader([]byte("other")), 5); err == nil {
		// Where a try failed, what is there is taken for what it did.
		if got, err := b.Read(ctx, "a/one", int64(len(content))); err != nil || !bytes.Equal(got, content) {
			t.Logf("the server knows no conditions: what was there is replaced: %v", err)
			if err := b.Delete(ctx, "a/one"); err != nil {
				t.Fatal(err)
			}
			put("a/one", content)
		}
	} else if !errors.Is(err, ErrObjectExists) {
		t.Errorf("put where there is something: %v", err)
	}
	list := func(prefix string) (found []string) {
		t.Helper()
		if err := b.List(ctx, prefix, func(o Object) error {
			found = append(found, fmt.Sprintf("%s %d", o.Key, o.Size))
			return nil
		}); err != nil {
			t.Errorf("list %q: %v", prefix, err)
		}
		return found
	}
	if got, want := list(""), []string{"a/empty 0", fmt.Sprintf("a/one %d", len(content)), "b/ü +&=% 3"}; !slices.Equal(got, want) {
		t.Errorf("list: %q, want %q", got, want)
	}
	if got := list("b/"); !slices.Equal(got, []string{"b/ü +&=% 3"}) {
		t.Errorf("list b/: %q", got)
	}
	stop := errors.New("stop")
	if err := b.List(ctx, "", func(Object) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("an error of visit: %v", err)
	}
	var g sync.WaitGroup
	for i := range 20 {
		g.Go(func() { put(fmt.Sprintf("many/%03d", i), content[:i*1000]) })
	}
	g.Wait()
	if got := list("many/"); len(got) != 20 {
		t.Errorf("of 20 objects put at once, %d are there", len(got))
	}
	if err := b.Delete(ctx, "a/one", "many/003", "nothing", "b/ü +&=%"); err != nil {
		t.Errorf("delete: %v", err)
	}
	if _, err := b.Read(ctx, "a/one", 1<<20); !errors.Is(err, ErrNoObject) {
		t.Errorf("reading what was deleted: %v", err)
	}
	if got := list(""); len(got) != 20 {
		t.Errorf("after the deletion there are %d objects", len(got))
	}
	canceled, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := b.Read(canceled, "a/empty", 1); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
	if err := b.Put(withExpiry(ctx, time.Now().Add(-time.Second)), "late", bytes.NewReader(nil), 0); !errors.Is(err, ErrExpired) && !isMemory(b) {
		t.Errorf("a request that comes too late: %v", err)
	}
}

func isMemory(b Bucket) bool { _, ok := b.(*memory); return ok }

// startServer starts a server, or skips.
func startServer(t *testing.T, k s3server.Kind) *s3server.Server {
	s, err := s3server.Start(context.Background(), k, t.TempDir())
	if why, ok := s3server.Excuse(err); ok {
		t.Skip(why)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	return s
}

// openS3 opens a prefix of a new bucket.
func openS3(t *testing.T, s *s3server.Server, endpoint string, opts S3Options) *S3 {
	t.Setenv("AWS_ACCESS_KEY_ID", s.Access)
	t.Setenv("AWS_SECRET_ACCESS_KEY", s.Secret)
	opts.Endpoint, opts.Region, opts.Credentials = endpoint, "us-east-1", "env"
	b, err := OpenS3(Location{Bucket: fmt.Sprintf("bucket-%d", rand.Uint32()), Prefix: "some/prefix/"}, &opts)
	if err != nil {
		t.Fatal(err)
	}
	for again := 0; ; again++ {
		if err = b.client.MakeBucket(context.Background(), b.Bucket, minio.MakeBucketOptions{}); err == nil || again == 20 {
			break
		}
		if minio.ToErrorResponse(err).Code == minio.BucketAlreadyOwnedByYou {
			err = nil // by a request that seemed to fail
			break
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestBucket(t *testing.T) {
	t.Run("memory", func(t *testing.T) { testBucket(t, newMemory()) }) // which the simulation trusts
	for _, k := range s3server.Kinds {
		t.Run(k.Name, func(t *testing.T) {
			s := startServer(t, k)
			t.Run("plain", func(t *testing.T) { testBucket(t, openS3(t, s, s.Endpoint, S3Options{})) })
			t.Run("bad network", func(t *testing.T) {
				seed := rand.Uint64()
				p, err := s3server.NewProxy(s, seed, s3server.Faults{SlowDown: 0.1, Reset: 0.05, Cut: 0.1, CutUp: 0.1, Delay: 5 * time.Millisecond})
				if err != nil {
					t.Fatal(err)
				}
				defer p.Close()
				b := openS3(t, s, p.Endpoint, S3Options{})
				testBucket(t, b)
				t.Logf("seed %d: %d faults, %+v", seed, p.Injected.Load(), b.Requests())
				if b.Requests().Retries == 0 {
					t.Error("nothing was tried again")
				}
			})
		})
	}
}
