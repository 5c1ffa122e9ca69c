package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/arcboxlabs/arcstore/chunker"
	"github.com/arcboxlabs/arcstore/store/disk"
)

// readSize bounds how much of a pack is read at once, in bytes, where wanted
// frames lie side by side.
const readSize = 512 << 10

// openPacks bounds the pack files that a Fetcher keeps open.
const openPacks = 128

// reads is how packs are read.
type reads struct {
	size    int64 // bounds what is read at once, in bytes
	gap     int64 // up to so many bytes that nobody wants are read along, where that saves a read
	workers int   // how many reads are under way at once
}

var (
	local   = reads{size: readSize, workers: runtime.GOMAXPROCS(0)}
	distant = reads{size: 4 << 20, gap: 128 << 10, workers: 8}
	// scattered is for who reads here and there from far away, where what lies around is kept.
	scattered = reads{size: 512 << 10, gap: 128 << 10, workers: 32}
)

// Fetcher gets chunks out of a store. It needs neither lock nor index: the
// tables of the packs that it is told of, and of the others if that does not do.
// It is safe for concurrent use.
type Fetcher struct {
	s     *Store
	reads reads

	mu     sync.Mutex
	hints  []PackID // not yet loaded
	hinted int      // how many of them were
	packs  []PackID // all hints, where lazy
	lazy   bool     // who reads does not want to wait for the tables of all
	loc    *locator
	all    bool // every pack was looked at
	files  map[PackID]disk.File
	// loading is of tables that are being loaded; closed when that is done.
	loading map[PackID]chan struct{}
	frames  atomic.Int64
	bytes   atomic.Int64
}

// NewFetcher returns a fetcher that looks in the packs hints first.
func (s *Store) NewFetcher(hints []PackID) *Fetcher {
	return &Fetcher{s: s, reads: s.reads, hints: hints, loc: newLocator(), files: make(map[PackID]disk.File)}
}

// NewLazyFetcher is NewFetcher for who reads little here and there, and wants the first of it soon.
func (s *Store) NewLazyFetcher(hints []PackID) *Fetcher {
	f := s.NewFetcher(hints)
	f.lazy, f.packs = true, hints
	if s.reads.gap > 0 {
		f.reads = scattered
	}
	return f
}

// Close closes the files that the fetcher holds. No Fetch may be running.
func (f *Fetcher) Close() {
	for _, file := range f.files {
		file.Close()
	}
	f.files = nil
}

// FramesRead returns how many frames were read so far, and their stored bytes.
func (f *Fetcher) FramesRead() (frames, bytes int64) { return f.frames.Load(), f.bytes.Load() }

// ref is a wanted chunk and the place where it lies.
type ref struct {
	table, slot uint32
	i           int32 // in the ids wanted
}

// Fetch gets the chunks ids, at most 2^31 of them and no holes, in whatever
// order is the fastest. It calls deliver from several goroutines, each time with
// the chunks ids[i], ids[i+1], … whose bytes data is, one after the other: as
// many as lie together both in ids and in the store, and all but the last as long as the store's chunk size. Every byte was verified against its ID; where one
// copy of a chunk is damaged, it takes another.
// data is valid until deliver returns. After an error some chunks may have been delivered.
func (f *Fetcher) Fetch(ctx context.Context, ids []chunker.ID, deliver func(i int, data []byte) error) error {
	return f.get(ctx, ids, deliver, func(_ int, why error) error { return why })
}

// Salvage is Fetch that goes on past chunks that cannot be had: it calls lost
// with their indexes, in no order but from the calling goroutine, and why.
func (f *Fetcher) Salvage(ctx context.Context, ids []chunker.ID, deliver func(i int, data []byte) error, lost func(i int, why error)) error {
	return f.get(ctx, ids, deliver, func(i int, why error) error {
		lost(i, why)
		return nil
	})
}

// get is Fetch; lost decides on each chunk that cannot be had.
func (f *Fetcher) get(ctx context.Context, ids []chunker.ID, deliver func(i int, data []byte) error, lost func(i int, why error) error) error {
	refs, tables, missing, err := f.resolve(ctx, ids, nil)
	if err != nil {
		return err
	}
	bad := &badCopies{}
	for vanished := 0; ; {
		for _, i := range missing {
			if err := lost(int(i), bad.why(ids, i)); err != nil {
				return err
			}
		}
		if len(refs) == 0 {
			return nil
		}
		gone, failed, err := f.fetch(ctx, refs, tables, deliver)
		if err != nil {
			return err
		}
		if len(gone) > 0 {
			// A sweep dropped packs under us. What is live is in others now.
			if vanished++; vanished > 3 {
				return fmt.Errorf("store: %w: packs keep vanishing", ErrNotFound)
			}
			f.reload()
		}
		// Each copy fails once, so this ends.
		bad.add(f.s, tables, failed)
		for _, c := range failed {
			gone = append(gone, c.ref)
		}
		if len(gone) == 0 {
			return nil
		}
		again := make([]chunker.ID, len(gone))
		for k, r := range gone {
			again[k] = ids[r.i]
		}
		if refs, tables, missing, err = f.resolve(ctx, again, bad); err != nil {
			return err
		}
		for k := range refs {
			refs[k].i = gone[refs[k].i].i
		}
		for k := range missing {
			missing[k] = gone[missing[k]].i
		}
	}
}

// reload forgets every table, since packs were swept, and looks at what is there now.
func (f *Fetcher) reload() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hints, f.loc, f.all = nil, newLocator(), false
}

// resolve finds the places of chunks, in the order of ids, and the indexes of
// those that are nowhere but in copies that failed. What is known to be damaged is the last resort: who
// said so may be wrong.
func (f *Fetcher) resolve(ctx context.Context, ids []chunker.ID, failed *badCopies) (refs []ref, tables []*table, missing []int32, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	bad := f.s.damage.spoiled()
	refs = make([]ref, 0, len(ids))
	var last *table
	var lastNumber uint32
	next := 0
	for i := range ids {
		if last == nil || next >= last.slots() || *last.id(next) != ids[i] || bad.has(&last.pack, next) {
			t, slot, ok, err := f.find(ctx, &ids[i], bad, failed)
			if err != nil {
				return nil, nil, nil, err
			}
			if !ok {
				last = nil
				missing = append(missing, int32(i))
				continue
			}
			last, lastNumber, next = t, uint32(f.loc.numbers[t.pack]), slot
		}
		refs = append(refs, ref{table: lastNumber, slot: uint32(next), i: int32(i)})
		next++
	}
	return refs, f.loc.tables, missing, nil
}

// find finds a chunk, loading all tables if need be; the caller holds mu.
func (f *Fetcher) find(ctx context.Context, id *chunker.ID, bad spoiled, failed *badCopies) (t *table, slot int, ok bool, err error) {
	for {
		if t, slot, ok = f.loc.find(id, bad); ok {
			return t, slot, true, nil
		}
		if len(f.hints) == 0 {
			break
		}
		if err := f.loadHints(ctx); err != nil {
			return nil, 0, false, err
		}
	}
	if err := f.loadRest(ctx); err != nil {
		return nil, 0, false, err
	}
	if t, slot, ok = f.loc.find(id, bad); !ok && bad != nil {
		t, slot, ok = f.loc.find(id, failed.spoiled())
	}
	return t, slot, ok, nil
}

// loadHints loads the tables of the packs named at first, far away ever more of them: who wants the beginning of a
// snapshot does not wait for all. The caller holds mu.
func (f *Fetcher) loadHints(ctx context.Context) error {
	n := len(f.hints)
	if f.lazy || f.reads.gap > 0 {
		n = min(n, max(1, f.hinted))
	}
	hints := f.hints[:n]
	f.hints, f.hinted = f.hints[n:], f.hinted+n
	return f.load(ctx, hints)
}

// loadRest loads the tables of every pack there is; the caller holds mu.
func (f *Fetcher) loadRest(ctx context.Context) error {
	if f.all {
		return nil
	}
	packs, err := f.s.listPacks(ctx)
	if err != nil {
		return err
	}
	ids := make([]PackID, 0, len(packs))
	for id := range packs {
		ids = append(ids, id)
	}
	if err := f.load(ctx, ids); err != nil {
		return err
	}
	f.all = true
	return nil
}

// load loads tables on all cores. Packs that are gone or damaged are left
// out: their chunks may be elsewhere.
func (f *Fetcher) load(ctx context.Context, ids []PackID) error {
	tables := make([]*table, len(ids))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(f.reads.workers)
	for i, id := range ids {
		if f.loc.has(id) {
			continue
		}
		g.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			t, err := f.s.loadTable(id)
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrCorrupt) {
				return nil
			}
			tables[i] = t
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for _, t := range tables {
		if t != nil {
			f.loc.add(t)
		}
	}
	return nil
}

// fetch reads, checks and delivers refs, which it sorts. It returns those
// whose pack is gone, and those that are damaged.
func (f *Fetcher) fetch(ctx context.Context, refs []ref, tables []*table, deliver func(i int, data []byte) error) (gone []ref, bad []badCopy, err error) {
	sortRefs(refs)
	workers := f.reads.workers
	tasks := make(chan []ref, workers)
	var mu sync.Mutex
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer close(tasks)
		for len(refs) > 0 {
			n := f.reads.taskLength(refs, tables)
			select {
			case tasks <- refs[:n]:
			case <-ctx.Done():
				return ctx.Err()
			}
			refs = refs[n:]
		}
		return nil
	})
	for range workers {
		g.Go(func() error {
			r := f.s.newFrameReader(f)
			defer r.decoder.close()
			for task := range tasks {
				r.bad = nil
				err := r.read(tables[task[0].table], task, deliver)
				if err != nil && !errors.Is(err, fs.ErrNotExist) {
					return err
				}
				mu.Lock()
				if err != nil {
					gone = append(gone, task...)
				}
				bad = append(bad, r.bad...)
				mu.Unlock()
			}
			return nil
		})
	}
	err = g.Wait()
	return gone, bad, err
}

// sortRefs sorts places by where they lie.
func sortRefs(refs []ref) {
	slices.SortFunc(refs, func(a, b ref) int {
		if a.table != b.table {
			return cmp.Compare(a.table, b.table)
		}
		if a.slot != b.slot {
			return cmp.Compare(a.slot, b.slot)
		}
		return cmp.Compare(a.i, b.i)
	})
}

// taskLength returns how many refs, from the first on, lie in frames that one read can get.
func (r reads) taskLength(refs []ref, tables []*table) int {
	t := tables[refs[0].table]
	at := t.frameOf(int(refs[0].slot))
	from := t.frames[at].offset
	n := 1
	for ; n < len(refs) && refs[n].table == refs[0].table; n++ {
		last := &t.frames[at]
		if refs[n].slot < last.first+uint32(last.chunks) {
			continue
		}
		next := at + 1
		for refs[n].slot >= t.frames[next].first+uint32(t.frames[next].chunks) {
			if next++; t.frames[next].offset-last.offset-int64(last.stored) > r.gap {
				return n
			}
		}
		if t.frames[next].offset+int64(t.frames[next].stored)-from > r.size {
			break
		}
		at = next
	}
	return n
}

// open returns the pack's file, which stays open for a while. release must be called when it was read.
func (f *Fetcher) open(id PackID) (file disk.File, release func(), err error) {
	return f.openKept(id, openPacks)
}

// openKept is open that keeps up to so many files open.
func (f *Fetcher) openKept(id PackID, keep int) (file disk.File, release func(), err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if file := f.files[id]; file != nil {
		return file, func() {}, nil
	}
	file, err = f.s.disk.Open(packPath(f.s.dir, id))
	if err != nil {
		return nil, nil, fmt.Errorf("store: %w", err)
	}
	if len(f.files) >= max(keep, openPacks) {
		return file, func() { file.Close() }, nil
	}
	f.files[id] = file
	return file, func() {}, nil
}
