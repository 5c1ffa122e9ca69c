package remote

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/arcboxlabs/arcstore/chunker"
	"github.com/arcboxlabs/arcstore/store"
	"github.com/arcboxlabs/arcstore/store/crypt"
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
	// Key is that of the store that is pushed from or pulled into; nil where that is not encrypted, or there is none.
	Key *crypt.Key
	// Secret is asked for the secret of a bucket that is encrypted, where Key is not known. nil stands for none.
	Secret func() (crypt.Secret, error)
	// Warn, unless nil, is told what should never be.
	Warn func(text string)

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
	key    *crypt.Key // nil for a bucket without encryption
	sealer sealer
	warn   func(text string)

	reading sync.WaitGroup // what is read ahead

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
	if r.warn = opts.Warn; r.warn == nil {
		r.warn = func(string) {}
	}
	if opts.cache != nil {
		r.cache = opts.cache
	}
	config, err := bucket.Read(ctx, configKey, maxConfig)
	switch {
	case err == nil:
		r.config = config
		if err := r.unlock(ctx, opts); err != nil {
			return nil, err
		}
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
	r.reading.Wait()
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
		t, err := store.OpenTables(dir, r.key, r.table)
		if err != nil {
			return nil, err
		}
		r.finder = t
	}
	return r.finder, nil
}

// Fits reports why snapshots of a store cannot be in the bucket, if they cannot.
func (r *Remote) Fits(ctx context.Context, own *store.Store) error {
	if r.config == nil {
		return r.checkEmpty(ctx)
	}
	there, err := store.DecodeConfig(r.config)
	if err != nil {
		return fmt.Errorf("remote: %s: %w", configKey, err)
	}
	if size := own.Config().ChunkSize; there.ChunkSize != size {
		return r.foreign("the bucket has chunks of %d bytes, and the store of %d: give another prefix", there.ChunkSize, size)
	}
	return r.fitsKey(own.Key())
}

// where returns the bucket's name, as far as it has one.
func (r *Remote) where() string {
	if named, ok := r.bucket.(fmt.Stringer); ok {
		return named.String()
	}
	return "the bucket"
}

func (r *Remote) foreign(format string, args ...any) error {
	return fmt.Errorf("remote: %s: %w: %s", r.where(), ErrForeign, fmt.Sprintf(format, args...))
}

// checkEmpty makes sure that there is nothing under the prefix, unless it is of a host that is faster.
func (r *Remote) checkEmpty(ctx context.Context) error {
	stop := errors.New("stop")
	other := ""
	err := r.bucket.List(ctx, "", func(o Object) error {
		if o.Key == configKey {
			other = ""
			return stop
		}
		if other == "" && !strings.HasPrefix(o.Key, keysPrefix) { // of a push that was cut off
			other = o.Key
		}
		if o.Key > configKey && other != "" {
			return stop
		}
		return nil
	})
	if err != nil && !errors.Is(err, stop) {
		return fmt.Errorf("remote: %w", err)
	}
	if other != "" {
		return r.foreign("there is no %s, but %s: give an empty prefix", configKey, other)
	}
	return nil
}

// join makes sure that the bucket has a config, and that it fits: a bucket that is empty takes on that of a store.
func (r *Remote) join(ctx context.Context, from *Local) error {
	if err := r.Fits(ctx, from.Store); err != nil || r.config != nil {
		return err
	}
	if err := r.found(ctx, from.Store); err != nil {
		return err
	}
	return r.Fits(ctx, from.Store)
}
