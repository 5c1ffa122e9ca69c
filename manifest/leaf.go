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
	explicit bool   // anything but inherit
	out      []byte
}

func (b *leafBuilder) reset() {
	b.runs, b.ids, b.count, b.explicit = b.runs[:0], b.ids[:0], 0, false
}

// add appends n entries that need no IDs.
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
	b.explicit = b.explicit || k != inherit
}

// addData appends entries of data.
func (b *leafBuilder) addData(ids []chunker.ID) {
	b.add(data, len(ids))
	for i := range ids {
		b.ids = append(b.ids, ids[i][:]...)
	}
}

// encode returns the leaf's bytes: length of the runs (4), runs, IDs. What is
// inherited at the end goes unsaid. They are valid until the next call.
func (b *leafBuilder) encode() []byte {
	if b.count > 0 && b.last != inherit {
		b.runs = binary.AppendUvarint(b.runs, b.count<<2|uint64(b.last))
		b.count = 0
	}
	b.out = binary.LittleEndian.AppendUint32(b.out[:0], uint32(len(b.runs)))
	b.out = append(b.out, b.runs...)
	b.out = append(b.out, b.ids...)
	return b.out
}

var errLeaf = errors.New("a leaf of its page tables is malformed")

// decodeLeaf calls fn with the runs of a leaf of n entries, in order: where
// each begins, its length, and the IDs of one of data, back to back.
func decodeLeaf(b []byte, n int, fn func(k kind, first, count int, ids []byte)) error {
	if len(b) < 4 {
		return errLeaf
	}
	length := int64(binary.LittleEndian.Uint32(b))
	if length > int64(len(b)-4) {
		return errLeaf
	}
	runs, ids := b[4:4+length], b[4+length:]
	first := 0
	for len(runs) > 0 {
		v, used := binary.Uvarint(runs)
		if used <= 0 {
			return errLeaf
		}
		runs = runs[used:]
		k := kind(v & 3)
		if v>>2 == 0 || v>>2 > uint64(n-first) {
			return errLeaf
		}
		count := int(v >> 2)
		var own []byte
		switch k {
		case inherit, hole:
		case data:
			if count > len(ids)/chunker.IDSize {
				return errLeaf
			}
			own, ids = ids[:count*chunker.IDSize], ids[count*chunker.IDSize:]
			for at := 0; at < len(own); at += chunker.IDSize {
				if binary.LittleEndian.Uint64(own[at:]) == 0 && chunker.ID(own[at:]).IsHole() {
					return errLeaf
				}
			}
		default:
			return errLeaf
		}
		fn(k, first, count, own)
		first += count
	}
	if len(ids) != 0 {
		return errLeaf
	}
	return nil
}
