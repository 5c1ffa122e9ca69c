package manifest

import (
	"encoding/binary"
	"errors"

	"github.com/arcboxlabs/arcstore/chunker"
)

// leafChunks is how many entries of a stream one leaf covers.
const leafChunks = 4096

// maxLeaf bounds a leaf's encoding, in bytes: a run an entry, and an ID an entry.
const maxLeaf = 4 + leafChunks*2 + leafChunks*chunker.IDSize

// kind says what a run of entries is. The values are part of the format.
type kind uint8

const (
	inherit kind = 0 // as in the parent's stream; holes in a stream without one
	hole    kind = 1
	data    kind = 2
)

// leafBuilder gathers the entries of one leaf.
type leafBuilder struct {
	runs     []byte // encoded, but for the last one
	ids      []byte
	last     kind
	count    uint64 // of the last run
	entries  int
	explicit bool // anything but inherit
}

func (b *leafBuilder) reset() {
	b.runs, b.ids, b.count, b.entries, b.explicit = b.runs[:0], b.ids[:0], 0, 0, false
}

// add appends n entries of a kind; those of data have their IDs appended to ids by the caller.
func (b *leafBuilder) add(k kind, n int) {
	if n == 0 {
		return
	}
	if b.count > 0 && b.last != k {
		b.runs = binary.AppendUvarint(b.runs, b.count<<2|uint64(b.last))
		b.count = 0
	}
	b.last = k
	b.count += uint64(n)
	b.entries += n
	b.explicit = b.explicit || k != inherit
}

// encode returns the leaf's bytes: length of the runs (4), runs, IDs. What is inherited at the end goes unsaid.
func (b *leafBuilder) encode() []byte {
	if b.count > 0 && b.last != inherit {
		b.runs = binary.AppendUvarint(b.runs, b.count<<2|uint64(b.last))
	}
	out := make([]byte, 0, 4+len(b.runs)+len(b.ids))
	out = binary.LittleEndian.AppendUint32(out, uint32(len(b.runs)))
	out = append(out, b.runs...)
	return append(out, b.ids...)
}

var errLeaf = errors.New("a leaf of its page tables is malformed")

// applyLeaf overlays entries with what the leaf b says explicitly.
func applyLeaf(b []byte, entries []chunker.ID) error {
	if len(b) < 4 {
		return errLeaf
	}
	n := int64(binary.LittleEndian.Uint32(b))
	if n > int64(len(b)-4) {
		return errLeaf
	}
	runs, ids := b[4:4+n], b[4+n:]
	at := uint64(0)
	for len(runs) > 0 {
		v, used := binary.Uvarint(runs)
		if used <= 0 {
			return errLeaf
		}
		runs = runs[used:]
		k, count := kind(v&3), v>>2
		if count == 0 || count > uint64(len(entries))-at {
			return errLeaf
		}
		switch k {
		case inherit:
		case hole:
			clear(entries[at : at+count])
		case data:
			if count*chunker.IDSize > uint64(len(ids)) {
				return errLeaf
			}
			for i := range entries[at : at+count] {
				id := chunker.ID(ids[i*chunker.IDSize:])
				if id.IsHole() {
					return errLeaf
				}
				entries[at+uint64(i)] = id
			}
			ids = ids[count*chunker.IDSize:]
		default:
			return errLeaf
		}
		at += count
	}
	if len(ids) != 0 {
		return errLeaf
	}
	return nil
}
