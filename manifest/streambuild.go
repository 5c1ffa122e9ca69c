package manifest

import (
	"fmt"
	"math"

	"github.com/zeebo/blake3"

	"github.com/arcboxlabs/arcstore/chunker"
)

// StreamBuilder adds the entries of one stream, in order. Its methods fail
// when there are more of them than the stream has chunks.
type StreamBuilder struct {
	b      *Builder
	s      rootStream
	base   *StreamTable // the parent's, if it has one
	total  int64
	next   int64
	number int64 // of the leaf at hand
	bare   bool  // there is nothing but holes to inherit in that leaf
	leaf   leafBuilder
	buf    []chunker.ID
}

// Append adds entries; the zero ID is a hole.
func (s *StreamBuilder) Append(ids []chunker.ID) error {
	return s.each(int64(len(ids)), func(n int) {
		part := ids[:n]
		ids = ids[n:]
		for len(part) > 0 {
			end, holes := 1, part[0].IsHole()
			for end < len(part) && part[end].IsHole() == holes {
				end++
			}
			if holes {
				s.leaf.add(s.holeKind(), end)
			} else {
				s.leaf.addData(part[:end])
			}
			part = part[end:]
		}
	})
}

// Hole adds n entries that are holes.
func (s *StreamBuilder) Hole(n int64) error {
	if err := s.check(n); err != nil {
		return err
	}
	for n > 0 {
		if quiet := s.quiet(n); quiet > 0 {
			if err := s.skip(quiet); err != nil {
				return err
			}
			n -= quiet
			continue
		}
		part := min(n, leafChunks-s.next%leafChunks)
		if err := s.each(part, func(n int) { s.leaf.add(s.holeKind(), n) }); err != nil {
			return err
		}
		n -= part
	}
	return nil
}

// Inherit adds n entries that are as in the parent's stream of the same name,
// which must have them, as chunks of the same length.
func (s *StreamBuilder) Inherit(n int64) error {
	if err := s.check(n); err != nil || n == 0 {
		return err
	}
	if s.base == nil || n > s.base.Len()-s.next {
		return fmt.Errorf("manifest: stream %s: %w range to inherit: the parent has no chunks %d to %d", s.s.Name, ErrInvalid, s.next, s.next+n-1)
	}
	if err := s.checkShort(n); err != nil {
		return err
	}
	if s.s.based {
		return s.skip(n)
	}
	return s.copy(n)
}

// copy is Inherit where the manifest is written in full.
func (s *StreamBuilder) copy(n int64) error {
	if s.buf == nil {
		s.buf = make([]chunker.ID, leafChunks)
	}
	for n > 0 {
		number := s.next / leafChunks
		part := min(n, (number+1)*leafChunks-s.next)
		if next := s.base.nextLeaf(number); next > number {
			part = n
			if next < math.MaxInt64 {
				part = min(n, next*leafChunks-s.next)
			}
			if err := s.Hole(part); err != nil {
				return err
			}
		} else {
			if err := s.base.Lookup(s.next, s.buf[:part]); err != nil {
				return err
			}
			if err := s.Append(s.buf[:part]); err != nil {
				return err
			}
		}
		n -= part
	}
	return nil
}

// checkShort refuses to inherit a last chunk that has another length here than in the parent.
func (s *StreamBuilder) checkShort(n int64) error {
	at := min(s.base.Len(), s.total) - 1
	if s.base.Size() == s.s.Size || at < s.next || at >= s.next+n {
		return nil
	}
	size := int64(s.b.root.chunkSize)
	here, there := min(size, s.s.Size-at*size), min(size, s.base.Size()-at*size)
	if here == there {
		return nil
	}
	var id [1]chunker.ID
	if err := s.base.Lookup(at, id[:]); err != nil {
		return err
	}
	if !id[0].IsHole() {
		return fmt.Errorf("manifest: stream %s: %w range to inherit: chunk %d has %d bytes, the parent's has %d", s.s.Name, ErrInvalid, at, here, there)
	}
	return nil
}

// check refuses entries beyond the stream's end.
func (s *StreamBuilder) check(n int64) error {
	if s.b.done {
		return errBuilderDone
	}
	if n < 0 || n > s.total-s.next {
		return fmt.Errorf("manifest: stream %s has %d chunks and lacks %d: %w number of more, %d", s.s.Name, s.total, s.total-s.next, ErrInvalid, n)
	}
	return nil
}

// holeKind returns how holes are said in the leaf at hand: where there is
// nothing else to inherit, they go without saying.
func (s *StreamBuilder) holeKind() kind {
	if s.bare {
		return inherit
	}
	return hole
}

// quiet returns how many of the next n entries are whole leaves in which holes go without saying.
func (s *StreamBuilder) quiet(n int64) int64 {
	if s.next%leafChunks != 0 {
		return 0
	}
	number, leaves := s.next/leafChunks, n/leafChunks
	if s.s.based {
		leaves = min(leaves, s.base.nextLeaf(number)-number)
	}
	return leaves * leafChunks
}

// skip passes over n entries about which there is nothing to say, whole leaves at once.
func (s *StreamBuilder) skip(n int64) error {
	head := min(n, (leafChunks-s.next%leafChunks)%leafChunks)
	tail := (n - head) % leafChunks
	unsaid := func(n int) { s.leaf.add(inherit, n) }
	if err := s.each(head, unsaid); err != nil {
		return err
	}
	s.next += n - head - tail
	return s.each(tail, unsaid)
}

// each calls add with parts of the next n entries, each within the leaf at hand.
func (s *StreamBuilder) each(n int64, add func(n int)) error {
	if err := s.check(n); err != nil {
		return err
	}
	for n > 0 {
		if number := s.next / leafChunks; number != s.number {
			if err := s.flush(); err != nil {
				return err
			}
			s.enter(number)
		}
		part := min(n, (s.number+1)*leafChunks-s.next)
		add(int(part))
		s.next += part
		n -= part
	}
	return nil
}

// enter begins a leaf.
func (s *StreamBuilder) enter(number int64) {
	s.number = number
	s.bare = !s.s.based || s.base.nextLeaf(number) != number
}

// flush writes the leaf at hand, if it says anything.
func (s *StreamBuilder) flush() error {
	defer s.leaf.reset()
	if !s.leaf.explicit {
		return nil
	}
	if err := s.b.grow(leafEntry); err != nil {
		return err
	}
	s.b.sealed = s.b.files.seal.Seal(s.b.sealed[:0], s.leaf.encode(), leafContext)
	leaf := s.b.sealed
	hash := blake3.Sum256(leaf)
	s.s.addPlace(leafPlace{s.number, s.b.offset, int64(len(leaf)), hash[:]})
	return s.b.write(leaf)
}
