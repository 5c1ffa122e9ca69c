package manifest

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/zeebo/blake3"

	"github.com/arcboxlabs/arcstore/chunker"
)

// chainSlack is how many bytes of differences are worth keeping whatever the
// size of what they differ from.
const chainSlack = 64 << 10

// Builder writes one manifest, leaf by leaf: memory stays bounded whatever the
// streams' sizes. One goroutine uses it.
type Builder struct {
	files  *Files
	f      *os.File
	w      *bufio.Writer
	offset int64
	root   root
	parent *Table // whose entries can be inherited; nil for none
	open   *StreamBuilder
	done   bool
}

// Build begins a manifest of streams in chunks of chunkSize bytes, as the
// difference to parent, or on its own where parent is nil or has grown too
// long a chain. parent must stay open until Commit.
func (f *Files) Build(ctx context.Context, chunkSize int, parent *Table) (*Builder, error) {
	if err := chunker.CheckChunkSize(chunkSize); err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	b := &Builder{files: f, root: root{chunkSize: chunkSize}, parent: parent}
	if parent != nil {
		p := parent.layers[0].root
		if p.chunkSize != chunkSize {
			return nil, fmt.Errorf("manifest: %w parent: its chunk size is %d, not %d", ErrInvalid, p.chunkSize, chunkSize)
		}
		if p.depth+1 <= MaxDepth && p.chainBytes <= max(p.baseBytes, chainSlack) {
			b.root.depth, b.root.parent = p.depth+1, parent.Digest()
			b.root.chainBytes, b.root.baseBytes = p.chainBytes, p.baseBytes
		}
	}
	file, err := createTemp(f.dir)
	if err != nil {
		return nil, fmt.Errorf("manifest: build: %w", err)
	}
	b.f = file
	b.w = bufio.NewWriterSize(file, 256<<10)
	if err := b.write(fileHeader()); err != nil {
		b.Abort()
		return nil, err
	}
	return b, nil
}

func (b *Builder) write(p []byte) error {
	b.offset += int64(len(p))
	if _, err := b.w.Write(p); err != nil {
		return fmt.Errorf("manifest: write: %w", err)
	}
	return nil
}

// StreamBuilder adds the entries of one stream, in order. Its methods fail
// when there are more of them than the stream has chunks.
type StreamBuilder struct {
	b      *Builder
	s      rootStream
	base   *StreamTable // the parent's, if it has one
	total  int64
	next   int64
	number int64 // of the leaf at hand
	leaf   leafBuilder
}

// Stream begins the next stream. The one before must be complete.
func (b *Builder) Stream(name string, size int64) (*StreamBuilder, error) {
	if err := ValidName(name); err != nil {
		return nil, err
	}
	if size < 0 || size > maxStreamSize || len(b.root.streams) >= maxStreams {
		return nil, fmt.Errorf("manifest: %w stream %s of %d bytes: too large, or one of too many", ErrInvalid, name, size)
	}
	if err := b.closeStream(); err != nil {
		return nil, err
	}
	s := &StreamBuilder{b: b, s: rootStream{Stream: Stream{name, size}}, total: chunks(size, b.root.chunkSize)}
	if b.parent != nil {
		base, err := b.parent.Stream(name)
		if err != nil && !errors.Is(err, ErrNotFound) {
			return nil, err
		}
		if err == nil {
			s.base = base
			s.s.based = b.root.depth > 0
		}
	}
	b.open = s
	return s, nil
}

// closeStream ends the stream at hand.
func (b *Builder) closeStream() error {
	s := b.open
	if s == nil {
		return nil
	}
	if s.next != s.total {
		return fmt.Errorf("manifest: stream %s has %d of its %d chunks", s.s.Name, s.next, s.total)
	}
	if err := s.flush(); err != nil {
		return err
	}
	b.root.streams = append(b.root.streams, s.s)
	b.open = nil
	return nil
}

// each calls add with parts of the next n entries, none of which crosses a leaf's end.
func (s *StreamBuilder) each(n int64, add func(first, n int64) error) error {
	if n < 0 || n > s.total-s.next {
		return fmt.Errorf("manifest: stream %s has %d chunks, not %d", s.s.Name, s.total, s.next+n)
	}
	for n > 0 {
		if number := s.next / leafChunks; number != s.number {
			if err := s.flush(); err != nil {
				return err
			}
			s.number = number
		}
		part := min(n, (s.number+1)*leafChunks-s.next)
		if err := add(s.next, part); err != nil {
			return err
		}
		s.next += part
		n -= part
	}
	return nil
}

// flush writes the leaf at hand, if it says anything.
func (s *StreamBuilder) flush() error {
	defer s.leaf.reset()
	if !s.leaf.explicit {
		return nil
	}
	leaf := s.leaf.encode()
	hash := blake3.Sum256(leaf)
	le := binary.LittleEndian
	s.s.leaves = le.AppendUint64(s.s.leaves, uint64(s.number))
	s.s.leaves = le.AppendUint64(s.s.leaves, uint64(s.b.offset))
	s.s.leaves = le.AppendUint32(s.s.leaves, uint32(len(leaf)))
	s.s.leaves = append(s.s.leaves, hash[:]...)
	if s.b.root.depth > 0 {
		s.b.root.chainBytes += int64(len(leaf))
	} else {
		s.b.root.baseBytes += int64(len(leaf))
	}
	return s.b.write(leaf)
}

// Append adds entries; the zero ID is a hole.
func (s *StreamBuilder) Append(ids []chunker.ID) error {
	return s.each(int64(len(ids)), func(_, n int64) error {
		part := ids[:n]
		ids = ids[n:]
		for i := 0; i < len(part); {
			end := i + 1
			for end < len(part) && part[end].IsHole() == part[i].IsHole() {
				end++
			}
			if part[i].IsHole() {
				s.addHole(end - i)
			} else {
				s.leaf.add(data, end-i)
				for k := i; k < end; k++ {
					s.leaf.ids = append(s.leaf.ids, part[k][:]...)
				}
			}
			i = end
		}
		return nil
	})
}

// Hole adds n entries that are holes.
func (s *StreamBuilder) Hole(n int64) error {
	if s.s.based {
		return s.each(n, func(_, n int64) error { s.addHole(int(n)); return nil })
	}
	return s.skip(n)
}

// addHole adds holes to the leaf: where there is nothing to inherit, that goes without saying.
func (s *StreamBuilder) addHole(n int) {
	if s.s.based {
		s.leaf.add(hole, n)
	} else {
		s.leaf.add(inherit, n)
	}
}

// skip passes over n entries about which there is nothing to say, whole leaves at once.
func (s *StreamBuilder) skip(n int64) error {
	if n < 0 || n > s.total-s.next {
		return fmt.Errorf("manifest: stream %s has %d chunks, not %d", s.s.Name, s.total, s.next+n)
	}
	head := min(n, (leafChunks-s.next%leafChunks)%leafChunks)
	tail := (n - head) % leafChunks
	quiet := func(_, n int64) error { s.leaf.add(inherit, int(n)); return nil }
	if err := s.each(head, quiet); err != nil {
		return err
	}
	s.next += n - head - tail
	return s.each(tail, quiet)
}

// Inherit adds n entries that are as in the parent's stream of the same name,
// which must have them, as chunks of the same length.
func (s *StreamBuilder) Inherit(n int64) error {
	if s.base == nil || n > s.base.Len()-s.next {
		return fmt.Errorf("manifest: stream %s: the parent has no chunks %d to %d to inherit", s.s.Name, s.next, s.next+n-1)
	}
	if err := s.checkShort(n); err != nil {
		return err
	}
	if s.s.based {
		return s.skip(n)
	}
	buf := make([]chunker.ID, min(n, leafChunks))
	for n > 0 {
		part := buf[:min(n, int64(len(buf)))]
		if err := s.base.Lookup(s.next, part); err != nil {
			return err
		}
		if err := s.Append(part); err != nil {
			return err
		}
		n -= int64(len(part))
	}
	return nil
}

// checkShort refuses to inherit a last chunk that has another length here than in the parent.
func (s *StreamBuilder) checkShort(n int64) error {
	if s.base.Size() == s.s.Size {
		return nil
	}
	at := min(s.base.Len(), s.total) - 1
	if at < s.next || at >= s.next+n {
		return nil
	}
	size := int64(s.b.root.chunkSize)
	if min(size, s.base.Size()-at*size) == min(size, s.s.Size-at*size) {
		return nil
	}
	var id [1]chunker.ID
	if err := s.base.Lookup(at, id[:]); err != nil {
		return err
	}
	if !id[0].IsHole() {
		return fmt.Errorf("manifest: stream %s: chunk %d has another length than the parent's", s.s.Name, at)
	}
	return nil
}

// Commit completes the manifest and makes it durable under its digest.
func (b *Builder) Commit(ctx context.Context) (Digest, error) {
	if b.done {
		return Digest{}, errors.New("manifest: builder is done")
	}
	if err := b.closeStream(); err != nil {
		return Digest{}, err
	}
	if err := ctx.Err(); err != nil {
		return Digest{}, err
	}
	slices.SortFunc(b.root.streams, func(x, y rootStream) int { return strings.Compare(x.Name, y.Name) })
	for i := range b.root.streams {
		if err := follows(b.root.streams[:i], b.root.streams[i].Name); err != nil {
			return Digest{}, fmt.Errorf("manifest: %w: %w", ErrInvalid, err)
		}
	}
	encoded := b.root.encode()
	digest := digestOf(encoded)
	footer := encodeFooter(b.offset, int64(len(encoded)))
	if err := b.write(encoded); err != nil {
		return Digest{}, err
	}
	if err := b.write(footer); err != nil {
		return Digest{}, err
	}
	if err := b.w.Flush(); err != nil {
		return Digest{}, fmt.Errorf("manifest: write: %w", err)
	}
	b.done = true
	if err := moveInto(b.f, b.files.path(digest), true); err != nil {
		return Digest{}, fmt.Errorf("manifest: commit: %w", err)
	}
	return digest, nil
}

// Abort drops the manifest, unless it was committed.
func (b *Builder) Abort() {
	if !b.done {
		b.done = true
		b.f.Close()
		os.Remove(b.f.Name())
	}
}
