package manifest

import (
	"context"
	"fmt"
	"sync"

	"github.com/zeebo/blake3"

	"github.com/arcboxlabs/arcstore/chunker"
)

// Table is a snapshot's page tables, open for reading: the manifest and as
// many ancestors as it takes. It is safe for concurrent use.
type Table struct {
	layers []*layer // the newest first
}

// Open opens a manifest. What it reads is checked against the digest. The table must be closed.
func (f *Files) Open(ctx context.Context, d Digest) (*Table, error) {
	t := &Table{}
	for {
		if err := ctx.Err(); err != nil {
			t.Close()
			return nil, err
		}
		l, err := f.openLayer(d)
		if err == nil && len(t.layers) > 0 {
			child := t.layers[len(t.layers)-1].root
			if l.root.depth != child.depth-1 || l.root.chunkSize != child.chunkSize {
				l.f.Close()
				err = l.corrupt("it is no parent of what refers to it")
			}
		}
		if err != nil {
			t.Close()
			return nil, err
		}
		t.layers = append(t.layers, l)
		if l.root.depth == 0 {
			return t, nil
		}
		d = l.root.parent
	}
}

// Close closes the files. No look-up may be running.
func (t *Table) Close() error {
	for _, l := range t.layers {
		l.f.Close()
	}
	return nil
}

// Digest returns the manifest's digest.
func (t *Table) Digest() Digest { return t.layers[0].digest }

// ChunkSize returns the chunk size in bytes.
func (t *Table) ChunkSize() int { return t.layers[0].root.chunkSize }

// Layers returns the digests of the manifests that reading this one takes, itself first.
func (t *Table) Layers() []Digest {
	out := make([]Digest, len(t.layers))
	for i, l := range t.layers {
		out[i] = l.digest
	}
	return out
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
type StreamTable struct {
	Stream
	len    int64
	layers []streamLayer // the newest first

	mu     sync.Mutex
	leaves [cachedLeaves]cachedLeaf
	clock  uint64
	buf    []byte
}

type streamLayer struct {
	*layer
	s *rootStream
}

// cachedLeaves is how many composed leaves a StreamTable keeps: 128 KiB each.
const cachedLeaves = 4

type cachedLeaf struct {
	number  int64
	used    uint64 // 0: empty
	entries []chunker.ID
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
			return nil, l.corrupt(fmt.Sprintf("it lacks the stream %q that its child builds on", name))
		}
		s.layers = append(s.layers, streamLayer{l, rs})
		if !rs.based {
			break
		}
	}
	s.Stream = s.layers[0].s.Stream
	s.len = chunks(s.Stream.Size, t.ChunkSize())
	return s, nil
}

// Size returns the stream's length in bytes.
func (s *StreamTable) Size() int64 { return s.Stream.Size }

// Len returns the stream's length in chunks.
func (s *StreamTable) Len() int64 { return s.len }

// Lookup fills ids with the entries from first on; holes are zero.
func (s *StreamTable) Lookup(first int64, ids []chunker.ID) error {
	if first < 0 || int64(len(ids)) > s.len-first {
		return fmt.Errorf("manifest: stream %s has no chunks %d to %d", s.Name, first, first+int64(len(ids))-1)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(ids) > 0 {
		number, at := first/leafChunks, first%leafChunks
		n := min(int64(len(ids)), leafChunks-at)
		entries, err := s.leaf(number)
		if err != nil {
			return err
		}
		if entries == nil {
			clear(ids[:n])
		} else {
			copy(ids[:n], entries[at:])
		}
		ids = ids[n:]
		first += n
	}
	return nil
}

// leaf composes a leaf from its layers; nil where it is all holes.
func (s *StreamTable) leaf(number int64) ([]chunker.ID, error) {
	s.clock++
	oldest := &s.leaves[0]
	for i := range s.leaves {
		c := &s.leaves[i]
		if c.used > 0 && c.number == number {
			c.used = s.clock
			return c.entries, nil
		}
		if c.used < oldest.used {
			oldest = c
		}
	}
	present := false
	for _, l := range s.layers {
		_, _, _, ok := l.s.leaf(number)
		present = present || ok
	}
	if !present {
		return nil, nil
	}
	oldest.used = 0
	if oldest.entries == nil {
		oldest.entries = make([]chunker.ID, leafChunks)
	}
	clear(oldest.entries)
	for i := len(s.layers) - 1; i >= 0; i-- {
		l := s.layers[i]
		// What an ancestor had beyond this layer's end is not inherited.
		n := max(0, min(leafChunks, chunks(l.s.Size, l.root.chunkSize)-number*leafChunks))
		clear(oldest.entries[n:])
		b, err := l.readLeaf(l.s, number, &s.buf)
		if err != nil {
			return nil, err
		}
		if b == nil {
			continue
		}
		if err := applyLeaf(b, oldest.entries[:n]); err != nil {
			return nil, l.corrupt(err.Error())
		}
	}
	oldest.number, oldest.used = number, s.clock
	return oldest.entries, nil
}

// readLeaf reads and checks a leaf; nil if the layer has none. The result is
// valid until the next call with the same buf.
func (l *layer) readLeaf(s *rootStream, number int64, buf *[]byte) ([]byte, error) {
	offset, length, hash, ok := s.leaf(number)
	if !ok {
		return nil, nil
	}
	if cap(*buf) < length {
		*buf = make([]byte, max(length, 64<<10))
	}
	b := (*buf)[:length]
	if _, err := l.f.ReadAt(b, offset); err != nil {
		return nil, fmt.Errorf("manifest: read %s: %w", l.digest, err)
	}
	if sum := blake3.Sum256(b); string(sum[:]) != string(hash) {
		return nil, l.corrupt(fmt.Sprintf("leaf %d of stream %s does not hash to what the root says", number, s.Name))
	}
	return b, nil
}
