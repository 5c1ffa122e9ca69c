package store

import (
	"encoding/binary"
	"errors"
	"math/bits"

	"github.com/arcboxlabs/arcstore/chunker"
)

// filter says "certainly new" of a chunk without asking the index: Bloom
// filters whose bits for one chunk lie in one cache line (Putze, Sanders,
// Singler, "Cache-, Hash- and Space-Efficient Bloom Filters", 2007). It grows by
// layers, each twice the size of the one before, since a Bloom filter cannot.
type filter struct {
	layers []filterLayer
}

type filterLayer struct {
	lines []filterLine
	used  int // chunks added
}

type filterLine [8]uint64

const (
	filterBits      = 16 // a chunk: about 2 in 1,000 false positives a layer
	filterProbes    = 8
	filterFirst     = 1 << 17 // chunks in the first layer
	filterMaxLayers = 24
)

func (l *filterLayer) capacity() int { return len(l.lines) * 512 / filterBits }

// add adds a chunk.
func (f *filter) add(id *chunker.ID) {
	n := len(f.layers)
	if n == 0 || f.layers[n-1].used >= f.layers[n-1].capacity() {
		capacity := filterFirst
		if n > 0 {
			capacity = 2 * f.layers[n-1].capacity()
		}
		f.layers = append(f.layers, filterLayer{lines: make([]filterLine, capacity*filterBits/512)})
		n++
	}
	l := &f.layers[n-1]
	l.used++
	line, probes := l.line(id)
	for range filterProbes {
		line[probes>>6&7] |= 1 << (probes & 63)
		probes = bits.RotateLeft64(probes, -9) // 9 bits a probe, of 64: the last ones overlap a little
	}
}

// line returns the cache line that id belongs to, and the bits that choose in it.
// An ID is a hash already; its bytes need no further one.
func (l *filterLayer) line(id *chunker.ID) (*filterLine, uint64) {
	hi, _ := bits.Mul64(binary.LittleEndian.Uint64(id[16:]), uint64(len(l.lines)))
	return &l.lines[hi], binary.LittleEndian.Uint64(id[24:])
}

// has reports false if the chunk was never added.
func (f *filter) has(id *chunker.ID) bool {
layers:
	for i := range f.layers {
		line, probes := f.layers[i].line(id)
		for range filterProbes {
			if line[probes>>6&7]&(1<<(probes&63)) == 0 {
				continue layers
			}
			probes = bits.RotateLeft64(probes, -9)
		}
		return true
	}
	return false
}

// appendTo appends the filter's bytes.
func (f *filter) appendTo(b []byte) []byte {
	b = binary.LittleEndian.AppendUint32(b, uint32(len(f.layers)))
	for i := range f.layers {
		l := &f.layers[i]
		b = binary.LittleEndian.AppendUint64(b, uint64(l.used))
		b = binary.LittleEndian.AppendUint64(b, uint64(len(l.lines)))
		for j := range l.lines {
			for _, w := range l.lines[j] {
				b = binary.LittleEndian.AppendUint64(b, w)
			}
		}
	}
	return b
}

// decodeFilter is the inverse of appendTo; it must use up b.
func decodeFilter(b []byte) (filter, error) {
	var f filter
	bad := errors.New("filter is damaged")
	if len(b) < 4 {
		return f, bad
	}
	layers := binary.LittleEndian.Uint32(b)
	b = b[4:]
	if layers > filterMaxLayers {
		return f, bad
	}
	for range layers {
		if len(b) < 16 {
			return f, bad
		}
		used, n := binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[8:])
		b = b[16:]
		if n == 0 || n > uint64(len(b)/64) || used > n*64 {
			return f, bad
		}
		l := filterLayer{lines: make([]filterLine, n), used: int(used)}
		for j := range l.lines {
			for k := range l.lines[j] {
				l.lines[j][k] = binary.LittleEndian.Uint64(b[k*8:])
			}
			b = b[64:]
		}
		f.layers = append(f.layers, l)
	}
	if len(b) != 0 {
		return f, bad
	}
	return f, nil
}
