package remote

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/minio/minio-go/v7"
)

// Delete implements Bucket.
func (b *S3) Delete(ctx context.Context, keys ...string) error {
	if len(keys) == 0 {
		return nil
	}
	versioned, err := b.versioned()
	if err != nil {
		return err
	}
	return b.try(ctx, func() error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		objects := make(chan minio.ObjectInfo)
		var listing error
		go func() {
			defer close(objects)
			listing = b.sendVersions(ctx, keys, versioned, objects)
		}()
		var first error
		for failed := range b.client.Client.RemoveObjects(ctx, b.Bucket, objects, minio.RemoveObjectsOptions{}) {
			if minio.ToErrorResponse(failed.Err).Code == minio.NoSuchKey {
				continue
			}
			// What may pass is tried again before it is told what does not.
			if first == nil || !mayPass(first) {
				first = undeleted(failed.Err)
			}
		}
		return cmp.Or(first, listing)
	})
}

// sendVersions sends what is to be deleted of objects: themselves, or all their versions.
func (b *S3) sendVersions(ctx context.Context, keys []string, versioned bool, to chan<- minio.ObjectInfo) error {
	send := func(o minio.ObjectInfo) error {
		select {
		case to <- o:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	for _, key := range keys {
		if !versioned {
			if err := send(minio.ObjectInfo{Key: b.Prefix + key}); err != nil {
				return err
			}
			continue
		}
		for o := range b.client.Client.ListObjects(ctx, b.Bucket, minio.ListObjectsOptions{Prefix: b.Prefix + key, Recursive: true, WithVersions: true}) {
			if o.Err != nil {
				return o.Err
			}
			if o.Key != b.Prefix+key {
				continue
			}
			if err := send(o); err != nil {
				return err
			}
		}
	}
	return nil
}

// askVersioned asks whether the bucket keeps what is deleted. Who may not know is told no: then it does as it is told.
func (b *S3) askVersioned() (bool, error) {
	versioned := false
	err := b.try(context.Background(), func() error {
		c, err := b.client.GetBucketVersioning(context.Background(), b.Bucket)
		versioned = c.Enabled() || c.Suspended()
		return err
	})
	if errors.Is(err, ErrDenied) || errors.Is(err, errors.ErrUnsupported) {
		return false, nil
	}
	return versioned, err
}

// undeleted gives the error of one object, in the answer to a request that was for many and did not fail, the status that
// it would have had alone.
func undeleted(err error) error {
	r := minio.ToErrorResponse(err)
	if r.Code == "" || r.StatusCode != 0 || passing[r.Code] {
		return err
	}
	r.StatusCode = http.StatusForbidden
	return r
}

// askLocked asks whether objects in the bucket can have a retention. Who may not know is told no.
func (b *S3) askLocked() (bool, error) {
	if versioned, err := b.versioned(); err != nil || !versioned {
		return false, err
	}
	state := ""
	err := b.try(context.Background(), func() (err error) {
		state, _, _, _, err = b.client.GetObjectLockConfig(context.Background(), b.Bucket)
		if r := minio.ToErrorResponse(err); r.Code != "" && r.StatusCode >= 400 && r.StatusCode < 500 && !passing[r.Code] {
			return nil // there is none
		}
		return err
	})
	if errors.Is(err, errors.ErrUnsupported) {
		err = nil
	}
	return state == "Enabled", err
}

// Retained implements Retainer.
func (b *S3) Retained(ctx context.Context, keys ...string) (map[string]time.Time, error) {
	if locked, err := b.locked(); err != nil || !locked {
		return nil, err
	}
	kept := make(map[string]time.Time)
	for _, key := range keys {
		err := b.try(ctx, func() error {
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			for o := range b.client.Client.ListObjects(ctx, b.Bucket, minio.ListObjectsOptions{Prefix: b.Prefix + key, Recursive: true, WithVersions: true}) {
				if o.Err != nil {
					return o.Err
				}
				if o.Key != b.Prefix+key || o.IsDeleteMarker {
					continue
				}
				until, held, err := b.retention(ctx, o)
				if err != nil {
					return err
				}
				if last, ok := kept[key]; held && (!ok || until.IsZero() || until.After(last) && !last.IsZero()) {
					kept[key] = until
				}
			}
			return ctx.Err()
		})
		if err != nil {
			return nil, err
		}
	}
	return kept, nil
}

// retention returns until when a version cannot be deleted; the zero time where it is held until somebody lets it go. Who may
// not know is told that it can be: the server says so if not.
func (b *S3) retention(ctx context.Context, o minio.ObjectInfo) (until time.Time, held bool, err error) {
	info, err := b.client.StatObject(ctx, b.Bucket, o.Key, minio.StatObjectOptions{VersionID: o.VersionID})
	if err != nil {
		if r := minio.ToErrorResponse(err); r.StatusCode >= 400 && r.StatusCode < 500 && !mayPass(err) {
			err = nil
		}
		return until, false, err
	}
	if info.Metadata.Get("X-Amz-Object-Lock-Legal-Hold") == string(minio.LegalHoldEnabled) {
		return until, true, nil
	}
	t, err := time.Parse(time.RFC3339, info.Metadata.Get("X-Amz-Object-Lock-Retain-Until-Date"))
	return t, err == nil && t.After(time.Now()), nil
}
