package store

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"

	"github.com/pierrec/lz4/v4"

	"github.com/arcboxlabs/arcstore/chunker"
)

// Written says what a Writer did.
type Written struct {
	Chunks int64    // new ones
	Bytes  int64    // of the new chunks, uncompressed
	Stored int64    // of the packs written, bytes
	Packs  []PackID // that hold the chunks put: those found there and those written
	Found  Found
	Healed int64 // new ones of which there was a damaged copy, or may have been
}

// Found says where the chunks that were put and not stored were found, in chunks.
type Found struct {
	Neighbour int64 // in the slot after the one before
	Repeated  int64 // on their way into the store
	Elsewhere int64 // in other packs
}

// Writer puts chunks into the store: those that it lacks are compressed on
// all cores, and written in the order in which they were put. One goroutine uses a Writer; any number of
// Writers run at once. Every Writer must be closed; what it put stays
// safe from sweeps until then.
type Writer struct {
	s     *Store
	ctx   context.Context
	codec Codec

	pins    map[*pack]struct{}      // guarded by s.mu
	pending map[chunker.ID]struct{} // put, in packs not yet published
	last    *table                  // where the last chunk was found,
	next    int                     // and the slot after it
	frame   *pendingFrame           // being filled
	written Written
	damaged *damagedChunks

	frames  chan *pendingFrame // to the packer, in order
	work    chan *pendingFrame // to the compressors
	free    chan *pendingFrame
	workers sync.WaitGroup
	packer  sync.WaitGroup
	sealing sync.WaitGroup
	slots   chan struct{} // bounds the packs being sealed

	mu     sync.Mutex
	err    error // the first one
	sealed []*table
	known  int // of sealed, those no longer in pending
	closed bool
}

// pendingChunks is how many chunks are pending in a small create.
const pendingChunks = 4096

// pendingFrame is a frame on its way from chunks to a pack.
type pendingFrame struct {
	raw    []byte
	ids    []chunker.ID
	shorts map[int]int // index in ids → length

	codec  Codec
	buf    []byte // for stored
	sealed []byte // likewise, in an encrypted store
	stored []byte
	err    error
	done   chan struct{}
}

// frames keeps buffers from one writer to the next: memory touched for the
// first time costs more than compressing it.
var frames = sync.Pool{New: func() any {
	return &pendingFrame{raw: make([]byte, 0, frameTarget), buf: make([]byte, 0, lz4.CompressBlockBound(frameTarget)), done: make(chan struct{}, 1)}
}}

// encoders keeps compressors likewise.
var encoders = sync.Pool{New: func() any { return new(encoder) }}

// NewWriter returns a writer. It stops with ctx.
func (s *Store) NewWriter(ctx context.Context) (*Writer, error) {
	if s.readOnly {
		return nil, ErrReadOnly
	}
	s.damage.load()
	damaged, err := s.damagedChunks()
	if err != nil {
		return nil, err
	}
	n := runtime.GOMAXPROCS(0)
	ahead := 4 * n
	w := &Writer{s: s, ctx: ctx, codec: s.codec(), pins: make(map[*pack]struct{}), pending: make(map[chunker.ID]struct{}, pendingChunks),
		frames: make(chan *pendingFrame, ahead), work: make(chan *pendingFrame, ahead), free: make(chan *pendingFrame, ahead),
		slots: make(chan struct{}, 2), damaged: damaged}
	for range ahead {
		w.free <- frames.Get().(*pendingFrame)
	}
	s.mu.Lock()
	s.writers++
	s.startCheck()
	s.mu.Unlock()
	for range n {
		w.workers.Go(w.compress)
	}
	w.packer.Go(w.pack)
	return w, nil
}

// pin keeps sweeps from a pack until w is closed; the caller holds s.mu.
func (w *Writer) pin(p *pack) {
	if _, ok := w.pins[p]; !ok {
		w.pins[p] = struct{}{}
		p.pins++
	}
}

// Put makes sure that the chunk data, whose ID is id, is in the store once
// the writer is committed. It keeps no reference to data. An error is that of
// an earlier chunk, perhaps; the writer is then good for nothing but Close.
func (w *Writer) Put(id chunker.ID, data []byte) error {
	// Runs of chunks come back as runs: look first where the last one left off.
	if found, err := w.has(&id); found || err != nil {
		return err
	}
	w.pending[id] = struct{}{}
	if w.damaged.has(id) {
		w.written.Healed++
	}
	return w.add(id, data)
}

// Has reports whether a chunk need not be put: a sound copy is in the store, and stays at least until w is closed.
func (w *Writer) Has(id chunker.ID) (bool, error) { return w.has(&id) }

// has reports whether a sound copy of a chunk is in the store, or on its way.
func (w *Writer) has(id *chunker.ID) (bool, error) {
	if w.last != nil && w.next < w.last.slots() && *w.last.id(w.next) == *id && !w.s.damage.spoiled().has(&w.last.pack, w.next) {
		w.next++
		w.written.Found.Neighbour++
		return true, nil
	}
	if _, ok := w.pending[*id]; ok {
		w.written.Found.Repeated++
		return true, nil
	}
	t, slot, err := w.s.find(id, w)
	if t != nil {
		w.last, w.next = t, slot+1
		w.written.Found.Elsewhere++
	}
	return t != nil, err
}

// Lacks returns a function that says of a chunk that a snapshot refers to
// whether it must be put again, since it is damaged or lost. It is nil where no
// damage is known. It is for the goroutine that uses the Writer.
func (w *Writer) Lacks() func(id chunker.ID) bool {
	if !w.s.damage.known() {
		return nil
	}
	return func(id chunker.ID) bool {
		found, err := w.has(&id)
		return !found && err == nil // an error shows again when it is put
	}
}

// add puts a chunk that the store lacks into the current frame.
func (w *Writer) add(id chunker.ID, data []byte) error {
	if w.frame != nil && len(w.frame.raw)+len(data) > max(frameTarget, len(data)) {
		if err := w.cut(); err != nil {
			return err
		}
	}
	if w.frame == nil {
		select {
		case w.frame = <-w.free:
		case <-w.ctx.Done():
			return w.ctx.Err()
		}
		w.frame.raw, w.frame.ids, w.frame.shorts, w.frame.err = w.frame.raw[:0], w.frame.ids[:0], nil, nil
	}
	f := w.frame
	if len(data) < w.s.config.ChunkSize {
		if f.shorts == nil {
			f.shorts = make(map[int]int)
		}
		f.shorts[len(f.ids)] = len(data)
	}
	f.ids = append(f.ids, id)
	f.raw = append(f.raw, data...)
	w.written.Chunks++
	w.written.Bytes += int64(len(data))
	if len(f.raw) >= frameTarget || len(f.ids) >= maxFrameChunks {
		return w.cut()
	}
	return nil
}

// maxFrameChunks bounds a frame of very short chunks.
const maxFrameChunks = 1024

// cut sends the current frame on its way.
func (w *Writer) cut() error {
	f := w.frame
	w.frame = nil
	w.work <- f   // neither blocks: there are no more
	w.frames <- f // frames than places
	w.mu.Lock()
	defer w.mu.Unlock()
	// What is sealed is found by find: pending stays as small as what is not.
	for ; w.known < len(w.sealed); w.known++ {
		t := w.sealed[w.known]
		for slot := range t.slots() {
			delete(w.pending, *t.id(slot))
		}
	}
	return w.err
}

// compress is the loop of one compressor.
func (w *Writer) compress() {
	e := encoders.Get().(*encoder)
	defer encoders.Put(e)
	for f := range w.work {
		f.codec, f.stored, f.err = e.encode(f.buf, f.raw, w.codec)
		if f.codec != Raw {
			f.buf = f.stored[:0]
		}
		if f.err == nil && w.s.frameSeal != nil {
			f.sealed = w.s.frameSeal.Seal(f.sealed[:0], f.stored, "")
			f.stored = f.sealed
		}
		f.done <- struct{}{}
	}
}

// pack is the loop that writes frames to packs, in the order in which they were cut.
func (w *Writer) pack() {
	var p *packWriter
	for f := range w.frames {
		<-f.done
		err := w.failure()
		if err == nil {
			err = f.err
		}
		if err == nil && p != nil && p.full(len(f.ids)) {
			w.seal(p)
			p = nil
		}
		if err == nil && p == nil {
			p, err = w.s.newPackWriter()
		}
		if err == nil {
			err = p.add(f.codec, f.stored, len(f.raw), f.ids, f.shorts)
		}
		if err != nil {
			w.fail(err)
		}
		w.free <- f
	}
	if p != nil {
		if w.failure() == nil {
			w.seal(p)
		} else {
			p.abort()
		}
	}
}

// seal makes a pack durable beside what goes on, and then known.
func (w *Writer) seal(p *packWriter) {
	w.slots <- struct{}{}
	w.sealing.Go(func() {
		defer func() { <-w.slots }()
		t, err := p.seal()
		if err != nil {
			p.abort()
			w.fail(err)
			return
		}
		w.s.publish(t, w)
		w.mu.Lock()
		w.sealed = append(w.sealed, t)
		w.mu.Unlock()
	})
}

func (w *Writer) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.err = err
	}
}

func (w *Writer) failure() error {
	if err := w.ctx.Err(); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

// finish ends the pipeline and waits for it.
func (w *Writer) finish() {
	if w.closed {
		return
	}
	w.closed = true
	close(w.work)
	close(w.frames)
	w.workers.Wait()
	w.packer.Wait()
	w.sealing.Wait()
	for len(w.free) > 0 {
		frames.Put(<-w.free)
	}
}

// Commit waits until every chunk put is durable. Nothing can be put afterwards.
func (w *Writer) Commit() (Written, error) {
	if w.closed {
		return Written{}, errors.New("store: writer is closed")
	}
	var err error
	if w.frame != nil {
		err = w.cut()
	}
	w.finish()
	if err == nil {
		err = w.failure()
	}
	if err != nil {
		return Written{}, fmt.Errorf("store: commit: %w", err)
	}
	for _, t := range w.sealed {
		w.written.Stored += t.size
	}
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	for p := range w.pins {
		w.written.Packs = append(w.written.Packs, p.id)
	}
	return w.written, nil
}

// Close lets go of the writer. What a writer that was not committed put is
// left to the next sweep.
func (w *Writer) Close() {
	if !w.closed && w.failure() == nil {
		w.fail(errors.New("store: writer was closed before its commit"))
	}
	w.finish()
	if w.pins != nil {
		w.s.release(w.pins)
		w.pins = nil
	}
}
