package store

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"syscall"
	"time"

	"github.com/arcboxlabs/arcstore/chunker"
	"github.com/arcboxlabs/arcstore/store/crypt"
)

// frameReader reads frames for one goroutine.
type frameReader struct {
	f       *Fetcher // nil for who reads on his own
	hasher  *chunker.Hasher
	seal    *crypt.Sealer
	stored  []byte
	opened  []byte
	raw     []byte
	decoder decoder
	bad     []badCopy // what was not delivered, since it is damaged
}

func (s *Store) newFrameReader(f *Fetcher) *frameReader {
	return &frameReader{f: f, hasher: s.hasher, seal: s.frameSeal}
}

// read reads the frames that hold refs, which lie side by side in t, and
// delivers the chunks, but those that are damaged.
func (r *frameReader) read(t *table, refs []ref, deliver func(i int, data []byte) error) error {
	at := t.frameOf(int(refs[0].slot))
	end := t.frameOf(int(refs[len(refs)-1].slot)) + 1
	from := t.frames[at].offset
	stored, err := r.stretch(t, at, end)
	if err != nil {
		return err
	}
	for ; at < end; at++ {
		f := &t.frames[at]
		n := 0
		for n < len(refs) && refs[n].slot < f.first+uint32(f.chunks) {
			n++
		}
		if n == 0 {
			continue // read along
		}
		raw, why := r.decode(t, f, stored[f.offset-from:][:f.stored])
		if err := r.deliver(t, f, raw, why, refs[:n], deliver); err != nil {
			return err
		}
		refs = refs[n:]
	}
	return nil
}

// stretch reads the frames of t from the first one to before end, as they are stored. They are valid until the next call.
func (r *frameReader) stretch(t *table, first, end int) ([]byte, error) {
	file, release, err := r.f.open(t.pack)
	if err != nil {
		return nil, err
	}
	defer release()
	frames := t.frames[first:end]
	last := &frames[len(frames)-1]
	size := int(last.offset + int64(last.stored) - frames[0].offset)
	if cap(r.stored) < size {
		r.stored = make([]byte, max(size, readSize))
	}
	stored := r.stored[:size]
	if err := readFrames(file, frames, stored); err != nil {
		return nil, fmt.Errorf("store: read pack %s: %w", t.pack, err)
	}
	r.f.frames.Add(int64(end - first))
	r.f.bytes.Add(int64(size))
	return stored, nil
}

// readFrames fills b with frames that lie side by side. What is damaged so
// that it cannot even be read is zeros, which have the wrong checksum.
func readFrames(r io.ReaderAt, frames []frame, b []byte) error {
	from := frames[0].offset
	n, err := r.ReadAt(b, from)
	if err == nil {
		return nil
	}
	if errors.Is(err, io.EOF) {
		clear(b[n:])
		return nil
	}
	if !errors.Is(err, syscall.EIO) {
		return err
	}
	for i := range frames {
		part := b[frames[i].offset-from:][:frames[i].stored]
		if _, err := r.ReadAt(part, frames[i].offset); err != nil {
			if errors.Is(readError(err), errDevice) {
				return err
			}
			clear(part)
		}
	}
	return nil
}

// decode decompresses one frame. If the frame is damaged it says why, and
// returns what may be of use all the same: nobody believes a chunk that does not hash to its ID. A single flipped bit of
// stored it flips back.
func (r *frameReader) decode(t *table, f *frame, stored []byte) (raw []byte, why *CorruptError) {
	if checksum(stored) != f.crc {
		why = &CorruptError{Pack: t.pack, Offset: f.offset, Why: "frame has a wrong checksum"}
		if repairBit(stored, f.crc) {
			why.Why = "frame has a flipped bit"
		}
	}
	if cap(r.raw) < int(f.raw) {
		r.raw = make([]byte, max(int(f.raw), frameTarget))
	}
	opened, err := r.seal.Open(r.opened[:0], stored, "")
	if err == nil {
		if r.seal != nil {
			r.opened = opened
		}
		raw, err = r.decoder.decode(r.raw, opened, f.codec, int(f.raw))
	}
	if err != nil {
		// What comes before the place that does not decode is there.
		raw = r.raw[:f.raw]
		if why == nil {
			why = &CorruptError{Pack: t.pack, Offset: f.offset, Why: err.Error()}
		}
	}
	return raw, why
}

// deliver verifies the wanted chunks of a frame and hands them over, those
// together that are together. why is what is wrong with the frame, if anything is.
func (r *frameReader) deliver(t *table, f *frame, raw []byte, why *CorruptError, refs []ref, deliver func(i int, data []byte) error) error {
	slot, offset, length := f.first, 0, t.length(int(f.first))
	checked, sound := int64(-1), false
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
		if checked != int64(slot) {
			checked, sound = int64(slot), r.hasher.Sum(data) == *t.id(int(slot))
		}
		if !sound {
			r.bad = append(r.bad, badCopy{ref, corruptChunk(t, f, int(slot), why)})
			continue
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

// corruptChunk says that a chunk is damaged: because its frame is, or for no reason that shows.
func corruptChunk(t *table, f *frame, slot int, why *CorruptError) *CorruptError {
	if why != nil {
		return why
	}
	return &CorruptError{Pack: t.pack, Offset: f.offset, Chunk: *t.id(slot), Why: "chunk does not hash to its ID"}
}

// badCopy is a wanted chunk that is damaged where it was looked for.
type badCopy struct {
	ref
	why *CorruptError
}

// badCopies are those that were met on the way to some chunks.
type badCopies struct {
	whys  map[chunker.ID]*CorruptError
	slots map[PackID]slotSet
}

// add notes copies, here and in the store.
func (b *badCopies) add(s *Store, tables []*table, copies []badCopy) {
	if len(copies) == 0 {
		return
	}
	if b.whys == nil {
		b.whys, b.slots = make(map[chunker.ID]*CorruptError), make(map[PackID]slotSet)
	}
	found := make(map[PackID][]uint32)
	for _, c := range copies {
		t := tables[c.table]
		set := b.slots[t.pack]
		if set == nil {
			set = make(slotSet, (t.slots()+63)/64)
			b.slots[t.pack] = set
		}
		set[c.slot>>6] |= 1 << (c.slot & 63)
		b.whys[*t.id(int(c.slot))] = c.why
		found[t.pack] = append(found[t.pack], c.slot)
	}
	for id, slots := range found {
		slices.Sort(slots)
		s.damage.add(id, &mark{found: time.Now(), slots: slices.Compact(slots)}) // where it cannot be written down, it is known to this process at least
	}
}

// spoiled returns them as what is known to be damaged.
func (b *badCopies) spoiled() spoiled {
	if b == nil {
		return nil
	}
	return b.slots
}

// why says why a chunk cannot be had.
func (b *badCopies) why(ids []chunker.ID, i int32) error {
	if why := b.whys[ids[i]]; why != nil {
		return why
	}
	return fmt.Errorf("store: chunk %s: %w: %w", ids[i], ErrCorrupt, ErrNotFound)
}
