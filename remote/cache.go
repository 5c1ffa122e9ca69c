package remote

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/arcboxlabs/arcstore/store/disk"
)

// requests is how many requests are under way at once where they do not depend on each other.
const requests = 16

// cache keeps objects that were read, in a directory. What is read never changes under its key, so a copy is right for as
// long as a listing names it. Losing it costs requests.
type cache struct {
	dir string // "" keeps nothing
	// kept is what one without a directory keeps, in tests.
	kept map[string][]byte
}

func (c *cache) path(key string) string { return filepath.Join(c.dir, filepath.FromSlash(key)) }

// get returns an object from the cache, or nil.
func (c *cache) get(key string) []byte {
	if c.dir == "" {
		return c.kept[key]
	}
	b, err := os.ReadFile(c.path(key))
	if err != nil {
		return nil
	}
	return b
}

// readAt returns n bytes of an object from off on, or nil.
func (c *cache) readAt(key string, off, n int64) []byte {
	f, err := os.Open(c.path(key))
	if err != nil {
		return nil
	}
	defer f.Close()
	b := make([]byte, n)
	if _, err := f.ReadAt(b, off); err != nil {
		return nil
	}
	return b
}

// put keeps an object. Where it cannot, it will be read again.
func (c *cache) put(key string, b []byte) {
	if c.dir == "" {
		if c.kept != nil {
			c.kept[key] = b
		}
		return
	}
	name := c.path(key)
	if err := disk.MakeDir(disk.OS, filepath.Dir(name)); err == nil {
		disk.WriteFile(disk.OS, name, b, false)
	}
}

// drop forgets an object.
func (c *cache) drop(key string) {
	delete(c.kept, key)
	if c.dir != "" {
		os.Remove(c.path(key))
	}
}

// keep removes what is below prefix but the keys named.
func (c *cache) keep(prefix string, keys []string) {
	if c.dir == "" {
		return
	}
	named := make(map[string]bool, len(keys))
	for _, key := range keys {
		named[c.path(key)] = true
	}
	filepath.WalkDir(c.path(prefix), func(name string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && !named[name] {
			os.Remove(name)
		}
		return nil
	})
}

// each calls use with every object named, in no order and from one goroutine at a time. What is not in the cache, or
// does not pass use, is read from the bucket.
func (c *cache) each(ctx context.Context, bucket Bucket, keys []string, limit int64, use func(key string, b []byte) error) error {
	var mu sync.Mutex
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(requests)
	for _, key := range keys {
		mu.Lock()
		b := c.get(key)
		done := b != nil && use(key, b) == nil
		mu.Unlock()
		if done {
			continue
		}
		g.Go(func() error {
			b, err := bucket.Read(ctx, key, limit)
			if err != nil {
				return fmt.Errorf("remote: read %s: %w", key, err)
			}
			mu.Lock()
			defer mu.Unlock()
			if err := use(key, b); err != nil {
				return err
			}
			if b != nil {
				c.put(key, b)
			}
			return nil
		})
	}
	return g.Wait()
}
