package arcstore

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/arcboxlabs/arcstore/manifest"
	"github.com/arcboxlabs/arcstore/remote"
	"github.com/arcboxlabs/arcstore/restore"
	"github.com/arcboxlabs/arcstore/store"
)

// A WorkingSet lists the pages that a guest touched first after a restore, in that order.
type WorkingSet = manifest.WorkingSet

// LazySnapshot is a snapshot that is read as it is needed, in any order, by any number of guests and readers at once: they
// share what was decompressed. It is safe for concurrent use. It reads what it needs even after the snapshot was deleted and its packs
// collected, but from a bucket.
type LazySnapshot struct {
	m      *Manager
	entry  *Snapshot
	table  *manifest.Table
	chunks *store.Fetcher
	near   [][]store.PackID // of the memory, where that is known
	cancel context.CancelFunc
	work   sync.WaitGroup

	mu       sync.Mutex
	working  *WorkingSet // nil where there is none
	streams  map[string]*manifest.StreamTable
	workOnce sync.Once
}

// SetCache bounds what is kept decompressed for all LazySnapshots of the store, in bytes; 128 MiB unless set. What is in use
// counts, but stays.
func (m *Manager) SetCache(bytes int64) { m.store.SetFrameCache(bytes) }

// OpenLazy opens a snapshot for reading it as it is needed. It must be closed.
func (m *Manager) OpenLazy(ctx context.Context, ref string) (*LazySnapshot, error) {
	e, err := m.getComplete(ctx, ref)
	if err != nil {
		return nil, err
	}
	table, err := m.openTable(ctx, e)
	if err != nil {
		return nil, err
	}
	if m.readAround != nil {
		if err := m.readAround(); err != nil {
			table.Close()
			return nil, err
		}
	}
	packs := packIDs(e.Packs)
	l := &LazySnapshot{m: m, entry: e, table: table, chunks: m.store.NewLazyFetcher(packs), streams: make(map[string]*manifest.StreamTable)}
	if m.near != nil {
		for _, names := range m.near(e.ID) {
			l.near = append(l.near, packIDs(names))
		}
	}
	ctx, l.cancel = context.WithCancel(context.WithoutCancel(ctx))
	if !m.distant {
		l.work.Go(func() { l.chunks.Hold(ctx, packs) }) // what it cannot hold is looked for when it is wanted
	}
	return l, nil
}

// Close lets go of the snapshot. Nobody may be reading from it.
func (l *LazySnapshot) Close() error {
	l.cancel()
	l.work.Wait()
	l.chunks.Close()
	return l.table.Close()
}

// Snapshot returns its entry in the catalogue.
func (l *LazySnapshot) Snapshot() *Snapshot { return l.entry }

// LazyStream reads a stream, parts of it as they are asked for: an io.ReaderAt with a Size, safe for concurrent use.
type LazyStream = restore.Pages

// Stream opens one stream. It lives as long as the snapshot.
func (l *LazySnapshot) Stream(name string) (*LazyStream, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.streams[name]
	if t == nil {
		var err error
		if t, err = l.table.Stream(name); err != nil {
			if errors.Is(err, manifest.ErrNotFound) {
				err = fmt.Errorf("arcstore: snapshot %s: %w: %q", l.entry.ID, ErrNoStream, name)
			}
			return nil, err
		}
		t.KeepLeaves()
		l.streams[name] = t
	}
	f := frames{Fetcher: l.chunks}
	if name == manifest.MemoryStream {
		f.near = l.near
	}
	return restore.NewPages(t, f, l.m.ChunkSize()), nil
}

// frames has package restore read through the store's cache of frames.
type frames struct {
	*store.Fetcher
	near [][]store.PackID // for each remote.NearChunks chunks of the stream, where that is known
}

// at returns the packs that hold what is around a chunk of the stream.
func (f frames) at(chunk int64) []store.PackID {
	if i := chunk / remote.NearChunks; i < int64(len(f.near)) {
		return f.near[i]
	}
	return nil
}

func (f frames) Expect(ctx context.Context, at int64) {
	if near := f.at(at); near != nil {
		f.Fetcher.Expect(ctx, near)
	}
}

func (f frames) Frame(ctx context.Context, id *ChunkID, at int64) (restore.Frame, int, error) {
	return f.OpenFrame(ctx, id, f.at(at))
}

func (f frames) Warm(ctx context.Context, ids []ChunkID, at []int64) error {
	var near []store.PackID
	last := int64(-1)
	for _, chunk := range at {
		if i := chunk / remote.NearChunks; i != last && f.near != nil {
			near, last = append(near, f.at(chunk)...), i
		}
	}
	return f.Fetcher.Warm(ctx, ids, near)
}

// WorkingSet returns what was recorded when the snapshot, or the nearest of its ancestors of which there is a record, was restored before: nil
// if nothing was.
func (l *LazySnapshot) WorkingSet(ctx context.Context) *WorkingSet {
	l.workOnce.Do(func() {
		w := l.m.findWorkingSet(ctx, l.entry)
		l.mu.Lock()
		defer l.mu.Unlock()
		l.working = w
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.working
}

// ancestors bounds of how many a working set is looked for.
const ancestors = 8

func (m *Manager) findWorkingSet(ctx context.Context, e *Snapshot) *WorkingSet {
	for range ancestors {
		w, err := m.working.Get(ctx, e.ID)
		if err == nil {
			return w
		}
		if e.Parent == "" || m.distant {
			return nil
		}
		if e, err = m.catalogue.Get(ctx, e.Parent); err != nil {
			return nil
		}
	}
	return nil
}

// record keeps the pages that a guest touched, if what is known does not do.
func (l *LazySnapshot) record(ctx context.Context, size int64, touched []uint32) error {
	l.WorkingSet(ctx)
	l.mu.Lock()
	defer l.mu.Unlock()
	keep, changed := restore.KeepWorkingSet(l.working, size, touched)
	if !changed {
		return nil
	}
	l.working = keep
	put := l.m.working.Put
	if l.m.putWorkingSet != nil {
		put = l.m.putWorkingSet
	}
	if err := put(ctx, l.entry.ID, keep); err != nil {
		return fmt.Errorf("arcstore: snapshot %s: keep which pages its guest needs first: %w", l.entry.ID, err)
	}
	return nil
}

// Frames returns how many frames of the store were decompressed so far for all who read as they need it, and how many times one was there already.
func (l *LazySnapshot) Frames() (decompressed, shared int64) { return l.m.store.FramesShared() }
