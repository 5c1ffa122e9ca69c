package manifest

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/arcboxlabs/arcstore/chunker"
)

// Table is a snapshot's page tables, open for reading: the manifest and as
// many ancestors as it takes. It is safe for concurrent use.
type Table struct {
	layers []*layer // the newest first
	broken error    // why there are no more of them; nil if these are all
}

// Open opens a manifest and its ancestors. All that is ever read of them is
// checked against the digest. The table must be closed.
func (f *Files) Open(ctx context.Context, d Digest) (*Table, error) {
	t, err := f.OpenDamaged(ctx, d)
	if err == nil && t.broken != nil {
		t.Close()
		return nil, t.broken
	}
	return t, err
}

// OpenDamaged is Open that does with fewer ancestors, if one is damaged or
// missing: what is not known then is a gap to Salvage, and an error to Lookup.
func (f *Files) OpenDamaged(ctx context.Context, d Digest) (*Table, error) {
	t := &Table{}
	for next := d; ; {
		if err := ctx.Err(); err != nil {
			t.Close()
			return nil, err
		}
		l, err := f.openLayer(next)
		if err == nil && len(t.layers) > 0 {
			if err = t.layers[len(t.layers)-1].checkParent(l); err != nil {
				l.f.Close()
			}
		} else if errors.Is(err, ErrNotFound) && next != d {
			err = fmt.Errorf("manifest: %s: its ancestor %s: %w", d, next, ErrNotFound)
		}
		if err != nil && len(t.layers) > 0 && isDamage(err) {
			t.broken = err
			return t, nil
		}
		if err != nil {
			t.Close()
			return nil, err
		}
		t.layers = append(t.layers, l)
		// Each parent's depth is one less, so this ends.
		if l.root.depth == 0 {
			return t, nil
		}
		next = l.root.parent
	}
}

// Close closes the files. No look-up may be running.
func (t *Table) Close() error {
	for _, l := range t.layers {
		l.f.Close() // only read from: there is nothing to lose
	}
	return nil
}

// Digest returns the manifest's digest.
func (t *Table) Digest() Digest { return t.layers[0].digest }

// ChunkSize returns the chunk size in bytes.
func (t *Table) ChunkSize() int { return t.layers[0].root.chunkSize }

// Parent returns the digest of the manifest that this one is the difference
// to. One written in full has none, even if its snapshot has a parent.
func (t *Table) Parent() (Digest, bool) {
	r := t.layers[0].root
	return r.parent, r.depth > 0
}

// Layers returns the digests of the manifests that reading this one takes, itself first.
func (t *Table) Layers() []Digest {
	out := make([]Digest, len(t.layers))
	for i, l := range t.layers {
		out[i] = l.digest
	}
	return out
}

// Broken returns the ancestor that OpenDamaged did without, and why; nil for none.
func (t *Table) Broken() (Digest, error) {
	if t.broken == nil {
		return Digest{}, nil
	}
	return t.layers[len(t.layers)-1].root.parent, t.broken
}

// Streams lists the streams, sorted by name.
func (t *Table) Streams() []Stream {
	out := make([]Stream, len(t.layers[0].root.streams))
	for i := range out {
		out[i] = t.layers[0].root.streams[i].Stream
	}
	return out
}

// StreamTable is the page table of one stream. It is safe for concurrent use.
// It keeps up to 8 MiB of entries and leaves that it read, unless KeepLeaves was called.
type StreamTable struct {
	Stream
	len    int64
	layers []*layerStream // the newest first
	broken error          // why what these do not say is not known
	cache  leafCache
}

// Stream returns the page table of a stream; ErrNotFound if there is none of that name.
func (t *Table) Stream(name string) (*StreamTable, error) {
	s := &StreamTable{}
	for _, l := range t.layers {
		rs := l.root.stream(name)
		if rs == nil {
			if len(s.layers) == 0 {
				return nil, fmt.Errorf("manifest: stream %q: %w", name, ErrNotFound)
			}
			return nil, l.corrupt(l.end, fmt.Errorf("it lacks the stream %q that its child builds on", name))
		}
		s.layers = append(s.layers, &layerStream{layer: l, s: rs, len: chunks(rs.Size, l.root.chunkSize)})
		if !rs.based {
			break
		}
		if len(s.layers) == len(t.layers) {
			s.broken = t.broken
		}
	}
	s.Stream, s.len = s.layers[0].s.Stream, s.layers[0].len
	return s, nil
}

// KeepLeaves has the table keep all that it reads of streams up to 16 GiB (in pages of 4 KiB; 34 bytes for each page with data): for who
// reads here and there. It is called before the first look-up.
func (s *StreamTable) KeepLeaves() {
	s.cache.resize(int(min(maxCachedLeaves, max(cachedLeaves, chunks(s.len, leafChunks)))))
}

// Size returns the stream's length in bytes.
func (s *StreamTable) Size() int64 { return s.Stream.Size }

// Len returns the stream's length in chunks.
func (s *StreamTable) Len() int64 { return s.len }

// Lookup fills ids with the entries from first on; holes are zero.
func (s *StreamTable) Lookup(first int64, ids []chunker.ID) error {
	if len(ids) > 0 && (first < 0 || int64(len(ids)) > s.len-first) {
		return fmt.Errorf("manifest: stream %s has %d chunks: %w range of %d from %d on", s.Name, s.len, ErrInvalid, len(ids), first)
	}
	for len(ids) > 0 {
		number, at := first/leafChunks, first%leafChunks
		n := min(int64(len(ids)), leafChunks-at)
		if err := s.lookup(number, int(at), ids[:n]); err != nil {
			return err
		}
		ids = ids[n:]
		first += n
	}
	return nil
}

// lookup is Lookup within one leaf.
func (s *StreamTable) lookup(number int64, at int, ids []chunker.ID) error {
	slot := s.cache.acquire(number)
	if slot == nil {
		if s.broken == nil && s.nextLeaf(number) != number {
			clear(ids)
			return nil
		}
		slot = s.cache.add(number)
	}
	defer s.cache.release(slot)
	slot.once.Do(func() { slot.err = s.compose(number, &slot.composed) })
	if slot.err != nil {
		s.cache.drop(slot) // it may have been the device's error, and pass
		return slot.err
	}
	slot.fill(at, ids)
	return nil
}

// nextLeaf returns the number of the first leaf from number on of which any
// layer says anything: what comes before it is holes.
func (s *StreamTable) nextLeaf(number int64) int64 {
	next := int64(math.MaxInt64)
	for _, l := range s.layers {
		if i := l.s.find(number); i < l.s.leafCount() {
			next = min(next, l.s.place(i).number)
		}
	}
	if next >= chunks(s.len, leafChunks) {
		return math.MaxInt64
	}
	return next
}

// compose sets c to what the layers together say of a leaf.
func (s *StreamTable) compose(number int64, c *composed) error {
	_, err := s.overlay(number, c)
	return err
}

// overlay is compose that, where it fails, leaves in c what was said before:
// those of the first known entries that are unsaid could not be read.
func (s *StreamTable) overlay(number int64, c *composed) (known int, err error) {
	size := int64(0)
	for _, l := range s.layers {
		if p, _, ok := l.s.leaf(number); ok {
			size += p.length
		}
	}
	c.reset(leafChunksAt(s.len, number), size)
	limit := leafChunks
	for _, l := range s.layers {
		n := leafChunksAt(l.len, number)
		limit = min(limit, n)
		p, i, ok := l.s.leaf(number)
		if !ok {
			continue
		}
		err := l.leaf(i, func(b []byte) error {
			if err := c.underlay(b, n, limit); err != nil {
				return l.corrupt(p.offset, err)
			}
			return nil
		})
		if err != nil {
			return limit, err
		}
		// Where all is said, it does not matter what older layers say, or whether they can be read.
		if c.left == 0 {
			return limit, nil
		}
	}
	return limit, s.broken
}

// Own calls fn with the entries of data that this manifest itself holds, not
// those that it inherits, in order. ids is valid until fn returns.
func (s *StreamTable) Own(ctx context.Context, fn func(first int64, ids []chunker.ID) error) error {
	l := &layerStream{layer: s.layers[0].layer, s: s.layers[0].s, len: s.len}
	var ids []chunker.ID
	for i := range l.s.leafCount() {
		if err := ctx.Err(); err != nil {
			return err
		}
		p := l.s.place(i)
		err := l.leaf(i, func(b []byte) error {
			var ferr error
			err := decodeLeaf(b, leafChunksAt(l.len, p.number), func(k kind, first, count int, own []byte) {
				if k != data || ferr != nil {
					return
				}
				ids = ids[:0]
				for at := 0; at < len(own); at += chunker.IDSize {
					ids = append(ids, chunker.ID(own[at:]))
				}
				ferr = fn(p.number*leafChunks+int64(first), ids)
			})
			if err != nil {
				return l.corrupt(p.offset, err)
			}
			return ferr
		})
		if err != nil {
			return err
		}
	}
	return nil
}
