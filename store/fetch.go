package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/arcboxlabs/arcstore/chunker"
	"github.com/arcboxlabs/arcstore/store/disk"
)

const (
	// readSize bounds how much of a pack is read at once, in bytes, where
	// wanted frames lie side by side.
	readSize = 512 << 10
	// openPacks bounds the pack files that a Fetcher keeps open.
	openPacks = 128
)

// Fetcher gets chunks out of a store. It needs neither lock nor index: the
// tables of the packs that it is told of, and of the others if that does not do.
// It is safe for concurrent use.
type Fetcher struct {
	s *Store

	mu     sync.Mutex
	hints  []PackID // not yet loaded
	loc    *locator
	all    bool // every pack was looked at
	files  map[PackID]disk.File
	frames atomic.Int64
	bytes  atomic.Int64
}

// NewFetcher returns a fetcher that looks in the packs hints first.
func (s *Store) NewFetcher(hints []PackID) *Fetcher {
	return &Fetcher{s: s, hints: hints, loc: newLocator(), files: make(map[PackID]disk.File)}
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
// many as lie together both in ids and in the store, and all but the last as long as the store's chunk size. Every byte was verified against its ID.
// data is valid until deliver returns. After an error some chunks may have been delivered.
func (f *Fetcher) Fetch(ctx context.Context, ids []chunker.ID, deliver func(i int, data []byte) error) error {
	refs, tables, err := f.resolve(ctx, ids)
	if err != nil {
		return err
	}
	for try := 0; ; try++ {
		gone, err := f.fetch(ctx, refs, tables, deliver)
		if err != nil || len(gone) == 0 {
			return err
		}
		// A sweep dropped packs under us. What is live is in others now.
		if try == 3 {
			return fmt.Errorf("store: %w: packs keep vanishing", ErrNotFound)
		}
		if err := f.reload(); err != nil {
			return err
		}
		again := make([]chunker.ID, len(gone))
		for k, r := range gone {
			again[k] = ids[r.i]
		}
		found, t, err := f.resolve(ctx, again)
		if err != nil {
			return err
		}
		for k := range found {
			found[k].i = gone[found[k].i].i
		}
		refs, tables = found, t
	}
}

// reload forgets every table, since packs were swept, and looks at what is there now.
func (f *Fetcher) reload() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hints, f.loc, f.all = nil, newLocator(), false
	return nil
}

// resolve finds the places of chunks, in the order of ids.
func (f *Fetcher) resolve(ctx context.Context, ids []chunker.ID) ([]ref, []*table, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.loadHints(ctx); err != nil {
		return nil, nil, err
	}
	refs := make([]ref, len(ids))
	var last *table
	var lastNumber uint32
	next := 0
	for i := range ids {
		if last == nil || next >= last.slots() || *last.id(next) != ids[i] {
			t, slot, ok := f.loc.find(&ids[i])
			if !ok {
				if err := f.loadRest(ctx); err != nil {
					return nil, nil, err
				}
				if t, slot, ok = f.loc.find(&ids[i]); !ok {
					return nil, nil, fmt.Errorf("store: chunk %s: %w: %w", ids[i], ErrCorrupt, ErrNotFound)
				}
			}
			last, lastNumber, next = t, uint32(f.loc.numbers[t.pack]), slot
		}
		refs[i] = ref{table: lastNumber, slot: uint32(next), i: int32(i)}
		next++
	}
	return refs, f.loc.tables, nil
}

// loadHints loads the tables of the packs named at first; the caller holds mu.
func (f *Fetcher) loadHints(ctx context.Context) error {
	hints := f.hints
	f.hints = nil
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
	g.SetLimit(runtime.GOMAXPROCS(0))
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

// fetch reads, checks and delivers refs, which it sorts. It returns those whose pack is gone.
func (f *Fetcher) fetch(ctx context.Context, refs []ref, tables []*table, deliver func(i int, data []byte) error) ([]ref, error) {
	slices.SortFunc(refs, func(a, b ref) int {
		if a.table != b.table {
			return cmp.Compare(a.table, b.table)
		}
		if a.slot != b.slot {
			return cmp.Compare(a.slot, b.slot)
		}
		return cmp.Compare(a.i, b.i)
	})
	workers := runtime.GOMAXPROCS(0)
	tasks := make(chan []ref, workers)
	var mu sync.Mutex
	var gone []ref
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer close(tasks)
		for len(refs) > 0 {
			n := taskLength(refs, tables)
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
			r := frameReader{f: f}
			defer r.decoder.close()
			for task := range tasks {
				err := r.read(tables[task[0].table], task, deliver)
				if errors.Is(err, fs.ErrNotExist) {
					mu.Lock()
					gone = append(gone, task...)
					mu.Unlock()
				} else if err != nil {
					return err
				}
			}
			return nil
		})
	}
	return gone, g.Wait()
}

// taskLength returns how many refs, from the first on, lie in frames side by
// side that one read can get.
func taskLength(refs []ref, tables []*table) int {
	t := tables[refs[0].table]
	at := t.frameOf(int(refs[0].slot))
	size := int64(t.frames[at].stored)
	n := 1
	for ; n < len(refs) && refs[n].table == refs[0].table; n++ {
		if f := &t.frames[at]; refs[n].slot < f.first+uint32(f.chunks) {
			continue
		}
		if at+1 >= len(t.frames) {
			break
		}
		next := &t.frames[at+1]
		if refs[n].slot >= next.first+uint32(next.chunks) || size+int64(next.stored) > readSize {
			break
		}
		at++
		size += int64(next.stored)
	}
	return n
}

// open returns the pack's file, which stays open for a while. release must be called when it was read.
func (f *Fetcher) open(id PackID) (file disk.File, release func(), err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if file := f.files[id]; file != nil {
		return file, func() {}, nil
	}
	file, err = f.s.disk.Open(packPath(f.s.dir, id))
	if err != nil {
		return nil, nil, fmt.Errorf("store: %w", err)
	}
	if len(f.files) >= openPacks {
		return file, func() { file.Close() }, nil
	}
	f.files[id] = file
	return file, func() {}, nil
}

// frameReader reads frames for one goroutine.
type frameReader struct {
	f       *Fetcher
	stored  []byte
	raw     []byte
	decoder decoder
}

// read reads the frames that hold refs, which lie side by side in t, and delivers the chunks.
func (r *frameReader) read(t *table, refs []ref, deliver func(i int, data []byte) error) error {
	file, release, err := r.f.open(t.pack)
	if err != nil {
		return err
	}
	defer release()
	at := t.frameOf(int(refs[0].slot))
	end := t.frameOf(int(refs[len(refs)-1].slot)) + 1
	from := t.frames[at].offset
	size := int(t.frames[end-1].offset + int64(t.frames[end-1].stored) - from)
	if cap(r.stored) < size {
		r.stored = make([]byte, max(size, readSize))
	}
	stored := r.stored[:size]
	if _, err := file.ReadAt(stored, from); err != nil {
		// Only an end of the file is damage; whatever else may pass.
		if errors.Is(err, io.EOF) {
			return &CorruptError{Pack: t.pack, Offset: from, Why: "file is shorter than its table says"}
		}
		return fmt.Errorf("store: read pack %s: %w", t.pack, err)
	}
	r.f.frames.Add(int64(end - at))
	r.f.bytes.Add(int64(size))
	for ; at < end; at++ {
		f := &t.frames[at]
		n := 0
		for n < len(refs) && refs[n].slot < f.first+uint32(f.chunks) {
			n++
		}
		raw, err := r.decode(t, f, stored[f.offset-from:][:f.stored])
		if err != nil {
			return err
		}
		if err := r.deliver(t, f, raw, refs[:n], deliver); err != nil {
			return err
		}
		refs = refs[n:]
	}
	return nil
}

// decode checks and decompresses one frame.
func (r *frameReader) decode(t *table, f *frame, stored []byte) ([]byte, error) {
	if checksum(stored) != f.crc {
		return nil, &CorruptError{Pack: t.pack, Offset: f.offset, Why: "frame has a wrong checksum"}
	}
	if cap(r.raw) < int(f.raw) {
		r.raw = make([]byte, max(int(f.raw), frameTarget))
	}
	raw, err := r.decoder.decode(r.raw, stored, f.codec, int(f.raw))
	if err != nil {
		return nil, &CorruptError{Pack: t.pack, Offset: f.offset, Why: err.Error()}
	}
	return raw, nil
}

// deliver verifies the wanted chunks of a frame and hands them over, those
// together that are together.
func (r *frameReader) deliver(t *table, f *frame, raw []byte, refs []ref, deliver func(i int, data []byte) error) error {
	slot, offset, length := f.first, 0, t.length(int(f.first))
	verified := int64(-1)
	runStart, runEnd, runIndex, runCount := 0, 0, int32(0), int32(0)
	flush := func() error {
		if runCount == 0 {
			return nil
		}
		runCount = 0
		return deliver(int(runIndex), raw[runStart:runEnd])
	}
	for _, ref := range refs {
		for slot < ref.slot {
			offset += length
			slot++
			length = t.length(int(slot))
		}
		data := raw[offset : offset+length]
		if verified != int64(slot) {
			if chunker.Sum(data) != *t.id(int(slot)) {
				return &CorruptError{Pack: t.pack, Offset: f.offset, Chunk: *t.id(int(slot)), Why: "chunk does not hash to its ID"}
			}
			verified = int64(slot)
		}
		// Who takes a run apart goes by the chunk size: a short chunk ends it.
		whole := runCount > 0 && runEnd-runStart == int(runCount)*t.chunkSize
		if whole && ref.i == runIndex+runCount && offset == runEnd {
			runEnd += length
			runCount++
			continue
		}
		if err := flush(); err != nil {
			return err
		}
		runStart, runEnd, runIndex, runCount = offset, offset+length, ref.i, 1
	}
	return flush()
}
