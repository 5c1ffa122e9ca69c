package store

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/arcboxlabs/arcstore/chunker"
)

// OpenFrame is a frame, decompressed: a chunk that was asked for, and those that were stored along with it. All who ask
// for one of them share it. It is safe for concurrent use, until Release.
type OpenFrame struct {
	cache *frameCache
	key   frameKey
	table *table
	frame *frame
	sum   func([]byte) chunker.ID

	done  chan struct{} // closed when it is loaded
	raw   []byte
	why   *CorruptError   // what is wrong with it: some chunks may be sound all the same
	err   error           // why it could not be read
	sound []atomic.Uint64 // a bit for each chunk that was verified

	refs  int           // guarded by cache.mu
	place *list.Element // likewise
}

func newOpenFrame(c *frameCache, key frameKey, t *table) *OpenFrame {
	f := &t.frames[key.at]
	return &OpenFrame{cache: c, key: key, table: t, frame: f, done: make(chan struct{}), sound: make([]atomic.Uint64, (int(f.chunks)+63)/64)}
}

// Len returns the number of chunks.
func (o *OpenFrame) Len() int { return int(o.frame.chunks) }

// ID returns the i-th chunk's ID.
func (o *OpenFrame) ID(i int) *chunker.ID { return o.table.id(int(o.frame.first) + i) }

// Chunk returns the i-th chunk's bytes, verified; they are nobody's to change. The error is a *CorruptError: another copy of
// the chunk may be sound, which Fetch looks for.
func (o *OpenFrame) Chunk(i int) ([]byte, error) { return o.Chunks(i, i+1) }

// Chunks is Chunk for those from i to before end, which lie together.
func (o *OpenFrame) Chunks(i, end int) ([]byte, error) {
	from := o.offset(i)
	at := from
	for ; i < end; i++ {
		slot := int(o.frame.first) + i
		n := o.table.length(slot)
		if bit := uint64(1) << (i & 63); o.sound[i>>6].Load()&bit == 0 {
			if o.sum(o.raw[at:at+n]) != *o.table.id(slot) {
				return nil, corruptChunk(o.table, o.frame, slot, o.why)
			}
			o.sound[i>>6].Or(bit)
		}
		at += n
	}
	return o.raw[from:at:at], nil
}

// offset returns where the i-th chunk begins.
func (o *OpenFrame) offset(i int) int {
	if o.table.shorts == nil {
		return i * o.table.chunkSize
	}
	at := 0
	for k := range i {
		at += o.table.length(int(o.frame.first) + k)
	}
	return at
}

// Release lets go of the frame and of all bytes that it gave.
func (o *OpenFrame) Release() { o.cache.release(o) }

// wait waits until the frame is loaded.
func (o *OpenFrame) wait(ctx context.Context) error {
	select {
	case <-o.done:
	default:
		select {
		case <-o.done:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return o.err
}

// fill sets the frame to what its stored bytes stand for.
func (o *OpenFrame) fill(r *frameReader, stored []byte) {
	own := o.raw
	r.raw = own[:0]
	raw, why := r.decode(o.table, o.frame, stored)
	if own = r.raw; o.frame.codec == Raw { // raw is the reader's, or part of what was read
		raw = append(own[:0], raw...)
	}
	o.raw, o.why, o.sum = raw, why, r.hasher.Sum
	r.raw = nil
}

// loaded tells all who wait.
func (o *OpenFrame) loaded(err error) {
	o.err = err
	if err != nil || o.why != nil {
		o.cache.drop(o) // it may pass, or be mended
	}
	close(o.done)
}

// OpenFrame returns the frame that holds a chunk, which is no hole, and the chunk's number in it. The frame must be released. It looks
// first in the packs near, if the chunk is not in those that were looked at before.
func (f *Fetcher) OpenFrame(ctx context.Context, id *chunker.ID, near []PackID) (*OpenFrame, int, error) {
	for vanished := 0; ; vanished++ {
		t, slot, err := f.locate(ctx, id, near)
		if err != nil {
			return nil, 0, err
		}
		at := t.frameOf(slot)
		o, mine := f.s.cache.acquire(t, at)
		if mine {
			f.load1(o)
		}
		err = o.wait(ctx)
		if err == nil {
			return o, slot - int(o.frame.first), nil
		}
		o.Release()
		if !errors.Is(err, fs.ErrNotExist) || vanished == 3 {
			return nil, 0, err
		}
		f.reload() // a sweep dropped the pack under us: what is live is in another now
	}
}

// locate finds a chunk.
func (f *Fetcher) locate(ctx context.Context, id *chunker.ID, near []PackID) (*table, int, error) {
	bad := f.s.damage.spoiled()
	f.mu.Lock()
	defer f.mu.Unlock()
	t, slot, ok := f.loc.find(id, bad)
	if !ok && len(near) > 0 {
		f.mu.Unlock()
		err := f.loadNear(ctx, near)
		f.mu.Lock()
		if err != nil {
			return nil, 0, err
		}
		t, slot, ok = f.loc.find(id, bad)
	}
	if !ok {
		var err error
		if t, slot, ok, err = f.find(ctx, id, bad, nil); err != nil {
			return nil, 0, err
		}
	}
	if !ok {
		return nil, 0, fmt.Errorf("store: chunk %s: %w: %w", id, ErrCorrupt, ErrNotFound)
	}
	return t, slot, nil
}

// borrowReader returns a reader for one goroutine, which returns it.
func (s *Store) borrowReader(f *Fetcher) *frameReader {
	r, _ := s.readers.Get().(*frameReader)
	if r == nil {
		r = s.newFrameReader(nil)
	}
	r.f = f
	return r
}

func (s *Store) returnReader(r *frameReader) {
	r.f = nil
	s.readers.Put(r)
}

// load1 reads one frame.
func (f *Fetcher) load1(o *OpenFrame) {
	r := f.s.borrowReader(f)
	defer f.s.returnReader(r)
	f.loadSpan(r, o.table, []*OpenFrame{o})
}

// loadSpan reads frames of one pack that lie near each other, in the order in which they lie there.
func (f *Fetcher) loadSpan(r *frameReader, t *table, frames []*OpenFrame) {
	first, last := frames[0].key.at, frames[len(frames)-1].key.at
	stored, err := r.stretch(t, first, last+1)
	for _, o := range frames {
		if err == nil {
			at := o.frame.offset - t.frames[first].offset
			o.fill(r, stored[at:][:o.frame.stored])
		}
		o.loaded(err)
	}
}

// Warm loads the frames that hold chunks, none of them a hole, where they are not decompressed yet: those that lie
// together are read together, and several at once. What cannot be read it leaves to OpenFrame. Only so many frames make
// sense as there is room for.
func (f *Fetcher) Warm(ctx context.Context, ids []chunker.ID, near []PackID) error {
	if len(near) > 0 {
		if err := f.loadNear(ctx, near); err != nil {
			return err
		}
	}
	refs, tables, _, err := f.resolve(ctx, ids, nil)
	if err != nil {
		return err
	}
	sortRefs(refs)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(f.reads.workers)
	for len(refs) > 0 {
		n := f.reads.taskLength(refs, tables)
		t, task := tables[refs[0].table], refs[:n]
		refs = refs[n:]
		g.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			var held, mine []*OpenFrame
			for last := -1; len(task) > 0; task = task[1:] {
				at := t.frameOf(int(task[0].slot))
				if at == last {
					continue
				}
				last = at
				o, own := f.s.cache.acquire(t, at)
				held = append(held, o)
				if own {
					mine = append(mine, o)
				}
			}
			if len(mine) > 0 {
				r := f.s.borrowReader(f)
				f.loadSpan(r, t, mine)
				f.s.returnReader(r)
			}
			for _, o := range held {
				o.Release()
			}
			return nil
		})
	}
	return g.Wait()
}

// Expect begins to load the tables of packs that are soon to be looked in, where they are far away.
func (f *Fetcher) Expect(ctx context.Context, near []PackID) {
	f.mu.Lock()
	missing := false
	for _, id := range near {
		missing = missing || !f.loc.has(id) && f.loading[id] == nil
	}
	f.mu.Unlock()
	if missing {
		go f.loadNear(ctx, near) // an error shows when it is tried again
	}
}

// loadNear loads the tables of packs, each once and all at the same time, without keeping others from looking in those that are there.
func (f *Fetcher) loadNear(ctx context.Context, near []PackID) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(f.reads.workers)
	for _, id := range near {
		f.mu.Lock()
		there, loading := f.loc.has(id), f.loading[id]
		if !there && loading == nil {
			if f.loading == nil {
				f.loading = make(map[PackID]chan struct{})
			}
			f.loading[id] = make(chan struct{})
		}
		f.mu.Unlock()
		switch {
		case there:
		case loading != nil:
			g.Go(func() error {
				select {
				case <-loading:
					return nil
				case <-ctx.Done():
					return ctx.Err()
				}
			})
		default:
			g.Go(func() error { return f.loadOne(id) })
		}
	}
	return g.Wait()
}

// loadOne loads the table of a pack that is in loading. One that is gone, or damaged, is left out.
func (f *Fetcher) loadOne(id PackID) error {
	t, err := f.s.loadTable(id)
	f.mu.Lock()
	defer f.mu.Unlock()
	close(f.loading[id])
	delete(f.loading, id)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrCorrupt) {
		return nil
	}
	if err == nil {
		if f.loc.used == 0 && !f.all {
			f.loc.reserve(t.slots() * min(len(f.packs), maxReserve)) // so that it need not grow while somebody waits
		}
		f.loc.add(t)
	}
	return err
}

// maxReserve bounds for how many packs the locator is made as large as it will be.
const maxReserve = 256

// Hold opens the packs named, and keeps them open: what is read of them from now on is there even after a sweep deletes them. It
// loads their tables, too. Packs that are gone, or damaged, are left out.
func (f *Fetcher) Hold(ctx context.Context, packs []PackID) error {
	for _, id := range packs {
		if err := ctx.Err(); err != nil {
			return err
		}
		if _, _, err := f.openKept(id, len(packs)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := f.loadNear(ctx, []PackID{id}); err != nil {
			return err
		}
	}
	return nil
}
