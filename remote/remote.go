package remote

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/arcboxlabs/arcstore/chunker"
	"github.com/arcboxlabs/arcstore/store"
)

// maxConfig bounds the config object, in bytes.
const maxConfig = 1 << 20

// Errors of Open.
var (
	// ErrEmpty is the error of a prefix without objects: nobody pushed there yet.
	ErrEmpty = errors.New("there are no snapshots yet")
	// ErrForeign is the error of a prefix that holds something else, or snapshots that do not fit the store.
	ErrForeign = errors.New("it is not this store's")
)

// Options are the choices of Open.
type Options struct {
	// CacheDir is where index objects and snapshots are kept once they were read; "" keeps them in memory. One process
	// at a time uses it. It may be deleted at any time.
	CacheDir string

	now        func() time.Time // of tests
	uploadLife time.Duration
	cache      *cache
	finder     func(read tableReader) finder
}

// tableReader reads a pack's table, and says how many bytes the pack has.
type tableReader = func(store.PackID) (table []byte, size int64, err error)

// Remote is an open bucket. One operation at a time; any number of hosts.
type Remote struct {
	bucket Bucket
	config []byte // the bucket's config.json; nil while there is none
	cache  *cache
	now    func() time.Time
	finder finder

	uploadLife time.Duration

	view *view // what the last sync found
}

// finder finds chunks in packs, by their tables.
type finder interface {
	// Set says in which packs.
	Set(ctx context.Context, packs []store.PackID) error
	// Find returns one of them that holds the chunk.
	Find(id *chunker.ID) (pack store.PackID, found bool, err error)
	Close() error
}

// Open returns the remote in a bucket, which may be empty.
func Open(ctx context.Context, bucket Bucket, opts *Options) (*Remote, error) {
	if opts == nil {
		opts = &Options{}
	}
	r := &Remote{bucket: bucket, cache: &cache{dir: opts.CacheDir}, now: opts.now, uploadLife: cmp.Or(opts.uploadLife, uploadLife)}
	if r.now == nil {
		r.now = time.Now
	}
	if opts.cache != nil {
		r.cache = opts.cache
	}
	config, err := bucket.Read(ctx, configKey, maxConfig)
	switch {
	case err == nil:
		if _, err := store.DecodeConfig(config); err != nil {
			return nil, fmt.Errorf("remote: %s: %w: %w", configKey, ErrForeign, err)
		}
		r.config = config
	case !errors.Is(err, ErrNoObject):
		return nil, fmt.Errorf("remote: %w", err)
	}
	if err := r.checkCache(); err != nil {
		return nil, err
	}
	if opts.finder != nil {
		r.finder = opts.finder(r.table)
	}
	return r, nil
}

// checkCache empties the cache if it is another bucket's.
func (r *Remote) checkCache() error {
	if r.cache.dir == "" || bytes.Equal(r.cache.get(configKey), r.config) {
		return nil
	}
	if err := os.RemoveAll(r.cache.dir); err != nil {
		return fmt.Errorf("remote: empty the cache: %w", err)
	}
	if r.config != nil {
		r.cache.put(configKey, r.config)
	}
	return nil
}

// Empty reports whether nobody has pushed anything yet.
func (r *Remote) Empty() bool { return r.config == nil }

// Close lets go of the cache.
func (r *Remote) Close() error {
	if r.finder == nil {
		return nil
	}
	return r.finder.Close()
}

// chunks returns where to look for chunks.
func (r *Remote) chunks() (finder, error) {
	if r.finder == nil {
		dir := ""
		if r.cache.dir != "" {
			dir = filepath.Join(r.cache.dir, "chunks")
		}
		t, err := store.OpenTables(dir, r.table)
		if err != nil {
			return nil, err
		}
		r.finder = t
	}
	return r.finder, nil
}

// Fits reports why a store with a config cannot be pushed to the bucket, if it cannot.
func (r *Remote) Fits(ctx context.Context, config []byte) error {
	if r.config == nil {
		return r.checkEmpty(ctx)
	}
	own, err := store.DecodeConfig(config)
	if err != nil {
		return err
	}
	there, err := store.DecodeConfig(r.config)
	if err != nil {
		return fmt.Errorf("remote: %s: %w", configKey, err)
	}
	if there.ChunkSize != own.ChunkSize {
		return fmt.Errorf("remote: %w: the bucket has chunks of %d bytes, and the store of %d: give another prefix", ErrForeign, there.ChunkSize, own.ChunkSize)
	}
	return nil
}

// checkEmpty makes sure that there is nothing under the prefix.
func (r *Remote) checkEmpty(ctx context.Context) error {
	stop := errors.New("stop")
	other := ""
	err := r.bucket.List(ctx, "", func(o Object) error {
		if o.Key == configKey {
			return nil // of a host that is faster
		}
		other = o.Key
		return stop
	})
	if err != nil && !errors.Is(err, stop) {
		return fmt.Errorf("remote: %w", err)
	}
	if other != "" {
		return fmt.Errorf("remote: %w: there is no %s, but %s: give an empty prefix", ErrForeign, configKey, other)
	}
	return nil
}

// join makes sure that the bucket has a config, and that it fits: a bucket that is empty takes on config, that of a store.
func (r *Remote) join(ctx context.Context, config []byte) error {
	if err := r.Fits(ctx, config); err != nil || r.config != nil {
		return err
	}
	if err := r.found(ctx, config); err != nil {
		return err
	}
	return r.Fits(ctx, config)
}

// found makes an empty bucket a remote.
func (r *Remote) found(ctx context.Context, config []byte) error {
	if err := r.bucket.Put(ctx, configKey, bytes.NewReader(config), int64(len(config))); err != nil && !errors.Is(err, ErrObjectExists) {
		return fmt.Errorf("remote: %w", err)
	}
	// Of two hosts that do this at once, the one that was faster, or on some servers slower, has it its way.
	var err error
	if r.config, err = r.bucket.Read(ctx, configKey, maxConfig); err != nil {
		return fmt.Errorf("remote: %w", err)
	}
	return r.checkCache()
}
