package remote

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"
)

// memory is an S3 in memory: strongly consistent, with listings that come in pages.
type memory struct {
	mu      sync.Mutex
	objects map[string][]byte
	page    int // keys of a page; 0: all
}

func newMemory() *memory { return &memory{objects: make(map[string][]byte)} }

func (m *memory) put(key string, b []byte, create bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.objects[key]; ok && create {
		return ErrObjectExists
	}
	m.objects[key] = b
	return nil
}

func (m *memory) get(key string) []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.objects[key]
}

func (m *memory) delete(keys []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, key := range keys {
		delete(m.objects, key)
	}
}

// after returns the first few objects whose keys begin with prefix and come after a key.
func (m *memory) after(prefix, key string) []Object {
	m.mu.Lock()
	defer m.mu.Unlock()
	var found []Object
	for k, b := range m.objects {
		if strings.HasPrefix(k, prefix) && k > key {
			found = append(found, Object{Key: k, Size: int64(len(b))})
		}
	}
	slices.SortFunc(found, func(a, b Object) int { return strings.Compare(a.Key, b.Key) })
	if m.page > 0 && len(found) > m.page {
		found = found[:m.page]
	}
	return found
}

func (m *memory) Put(_ context.Context, key string, body io.ReaderAt, size int64) error {
	b, err := io.ReadAll(io.NewSectionReader(body, 0, size))
	if err != nil {
		return err
	}
	return m.put(key, b, true)
}

func (m *memory) Read(ctx context.Context, key string, limit int64) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	b := m.get(key)
	switch {
	case b == nil:
		return nil, ErrNoObject
	case int64(len(b)) > limit:
		return nil, ErrTooLarge
	}
	return bytes.Clone(b), nil
}

func (m *memory) ReadAt(_ context.Context, key string, p []byte, off int64) error {
	b := m.get(key)
	if b == nil {
		return ErrNoObject
	}
	if off+int64(len(p)) > int64(len(b)) {
		return io.ErrUnexpectedEOF
	}
	copy(p, b[off:])
	return nil
}

func (m *memory) List(_ context.Context, prefix string, visit func(Object) error) error {
	for last := ""; ; {
		found := m.after(prefix, last)
		for _, o := range found {
			if err := visit(o); err != nil {
				return err
			}
			last = o.Key
		}
		if m.page == 0 || len(found) < m.page {
			return nil
		}
	}
}

func (m *memory) Delete(_ context.Context, keys ...string) error {
	m.delete(keys)
	return nil
}

// network is one host's way to a bucket: requests take their time before they have an effect and after it; they
// fail with and without one; and some that were given up have it much later. For tests in a synctest bubble.
type network struct {
	to    *memory
	rand  *rand.Rand
	mu    *sync.Mutex
	delay time.Duration // at most, each way, most of the time
	late  time.Duration // how late a request that was given up may still be done, at most
	fail  float64       // how many requests fail
	ghost *sync.WaitGroup
	now   func() time.Time

	// stale makes listings of a prefix show what was there that long ago, which S3 does not.
	stale       time.Duration
	stalePrefix string
	old         *history
}

// history remembers listings, for networks that are stale.
type history struct {
	mu    sync.Mutex
	times map[string]time.Time // when a key appeared
}

var errNetwork = errors.New("the connection broke")

func (n *network) chance() float64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.rand.Float64()
}

// wait is the way of a request, or of its answer.
func (n *network) wait(ctx context.Context) error {
	return n.sleep(ctx, time.Duration(n.chance()*n.chance()*n.chance()*float64(n.delay)))
}

func (n *network) sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return ctx.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// request does something at the bucket, or not, now or later. Later only what changes something: nobody waits for it.
func (n *network) request(ctx context.Context, changes bool, do func() error) error {
	later := func() {
		if !changes {
			return
		}
		d := time.Duration(n.chance() * float64(n.late))
		n.ghost.Go(func() {
			time.Sleep(d)
			do()
		})
	}
	if n.chance() < 0.01 {
		if err := n.sleep(ctx, time.Duration(n.chance()*float64(50*n.delay))); err != nil { // the host was suspended
			return err
		}
	}
	if err := checkExpiry(ctx, n.now()); err != nil {
		return err
	}
	if err := n.wait(ctx); err != nil {
		if n.chance() < 0.3 {
			later()
		}
		return err
	}
	if n.chance() < n.fail {
		if n.chance() < 0.5 {
			later()
		}
		return errNetwork
	}
	err := do()
	if werr := n.wait(ctx); werr != nil {
		return werr
	}
	if n.chance() < n.fail/2 {
		return errNetwork
	}
	return err
}

// try repeats a request as a Bucket does.
func (n *network) try(ctx context.Context, changes bool, do func() error) error {
	for again := 0; ; again++ {
		err := n.request(ctx, changes, do)
		if !errors.Is(err, errNetwork) || again == 4 {
			return err
		}
	}
}

func (n *network) Put(ctx context.Context, key string, body io.ReaderAt, size int64) error {
	b, err := io.ReadAll(io.NewSectionReader(body, 0, size))
	if err != nil {
		return err
	}
	return n.try(ctx, true, func() error {
		if n.old != nil {
			n.old.mu.Lock()
			if _, ok := n.old.times[key]; !ok {
				n.old.times[key] = time.Now()
			}
			n.old.mu.Unlock()
		}
		return n.to.put(key, b, n.chance() < 0.5) // half of the servers know no conditions
	})
}

func (n *network) Read(ctx context.Context, key string, limit int64) (b []byte, err error) {
	err = n.try(ctx, false, func() error {
		var err error
		b, err = n.to.Read(ctx, key, limit)
		return err
	})
	return b, err
}

func (n *network) ReadAt(ctx context.Context, key string, p []byte, off int64) error {
	return n.try(ctx, false, func() error { return n.to.ReadAt(ctx, key, p, off) })
}

func (n *network) List(ctx context.Context, prefix string, visit func(Object) error) error {
	for last := ""; ; {
		var found []Object
		if err := n.try(ctx, false, func() error { found = n.to.after(prefix, last); return nil }); err != nil {
			return err
		}
		for _, o := range found {
			last = o.Key
			if n.hidden(prefix, o.Key) {
				continue
			}
			if err := visit(o); err != nil {
				return err
			}
		}
		if n.to.page == 0 || len(found) < n.to.page {
			return nil
		}
	}
}

// hidden reports whether a stale listing does not show a key yet.
func (n *network) hidden(prefix, key string) bool {
	if n.stale == 0 || prefix != n.stalePrefix {
		return false
	}
	n.old.mu.Lock()
	defer n.old.mu.Unlock()
	return time.Since(n.old.times[key]) < n.stale
}

func (n *network) Delete(ctx context.Context, keys ...string) error {
	return n.try(ctx, true, func() error { n.to.delete(keys); return nil })
}
