package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

// Errors of a Bucket. Whatever else a request fails with is no damage: it may work the next time.
var (
	// ErrNoObject is the error of reading an object that does not exist.
	ErrNoObject = errors.New("no such object")
	// ErrObjectExists is the error of a Put whose key is taken.
	ErrObjectExists = errors.New("the object exists already")
	// ErrTooLarge is the error of reading an object that is larger than it may be.
	ErrTooLarge = errors.New("the object is too large")
)

// Object is what a listing says of an object.
type Object struct {
	Key  string // relative to the prefix
	Size int64  // bytes
}

// ErrExpired is the error of a request that was not sent since it came too late.
var ErrExpired = errors.New("it took too long")

type expiry struct{}

// withExpiry returns a context of which a Bucket sends no request after t, not even another try of one. What counts is
// the wall clock, which goes on while a machine is suspended, and others take an upload for abandoned.
func withExpiry(ctx context.Context, t time.Time) context.Context {
	return context.WithValue(ctx, expiry{}, t.Round(0))
}

// checkExpiry is to be called right before a request is sent.
func checkExpiry(ctx context.Context, now time.Time) error {
	if t, ok := ctx.Value(expiry{}).(time.Time); ok && now.Round(0).After(t) {
		return fmt.Errorf("remote: %w: the upload was begun before %v", ErrExpired, t)
	}
	return nil
}

// Bucket is what a remote needs of S3: objects, each written once and whole, under one prefix of a bucket. Keys are
// relative to it, with slashes inside. It promises what S3 does: who asks after a Put or a Delete was answered sees
// its effect, in reads and in listings; a request that failed may have been done all the same, or be done later.
//
// A Bucket retries what may pass (throttling, server errors, broken connections) before it fails. It is safe for
// concurrent use.
type Bucket interface {
	// Put writes an object of size bytes, which it may read several times, in any order. If the key is taken, it fails with
	// ErrObjectExists where the server can tell, and otherwise replaces the object. The object appears whole or not at all.
	Put(ctx context.Context, key string, body io.ReaderAt, size int64) error
	// Read returns a whole object of at most limit bytes: ErrNoObject, ErrTooLarge.
	Read(ctx context.Context, key string, limit int64) ([]byte, error)
	// ReadAt fills p with the bytes of an object from off on: ErrNoObject, or io.ErrUnexpectedEOF where it is too short.
	ReadAt(ctx context.Context, key string, p []byte, off int64) error
	// List calls visit with the objects whose keys begin with prefix, in the order of their keys.
	List(ctx context.Context, prefix string, visit func(Object) error) error
	// Delete deletes objects for good, versions of them included. Those that do not exist are no error.
	Delete(ctx context.Context, keys ...string) error
}

// Retainer is a Bucket that may refuse to delete objects for a time, with ErrRetained, whoever asks.
type Retainer interface {
	// Retained returns those of the objects for which that is so, and until when; the zero time where nobody knows.
	Retained(ctx context.Context, keys ...string) (map[string]time.Time, error)
}
