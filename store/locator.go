package store

import (
	"encoding/binary"
	"math/rand/v2"

	"github.com/arcboxlabs/arcstore/chunker"
)

// locator finds chunks in the tables that were added to it: an open-addressing
// hash table of eight bytes a chunk, which points into the tables and leaves
// the comparison of whole IDs to them. An entry is
//
//	tag (28 bits) | table (20 bits, from 1) | slot (16 bits)
//
// and zero is a free place. Not safe for concurrent use.
type locator struct {
	entries []uint64 // a power of two long
	used    int
	seed    uint64
	tables  []*table // tables[0] is nil
	numbers map[PackID]int
}

func newLocator() *locator {
	// The seed keeps a guest that crafts pages from aiming at one place of the table.
	return &locator{seed: rand.Uint64() | 1, tables: make([]*table, 1), numbers: make(map[PackID]int)}
}

// has reports whether the pack's table was added.
func (l *locator) has(id PackID) bool { _, ok := l.numbers[id]; return ok }

// len returns the number of chunks added.
func (l *locator) len() int { return l.used }

func (l *locator) hash(id *chunker.ID) uint64 {
	h := (binary.LittleEndian.Uint64(id[:]) ^ binary.LittleEndian.Uint64(id[8:])) * l.seed
	return h ^ h>>32
}

const tagMask = uint64(1<<28-1) << 36

// add adds the chunks of t. Of a chunk in several tables, the one added first is found.
func (l *locator) add(t *table) {
	if l.has(t.pack) {
		return
	}
	number := len(l.tables)
	l.tables = append(l.tables, t)
	l.numbers[t.pack] = number
	n := t.slots()
	l.reserve(n)
	for slot := range n {
		l.insert(l.hash(t.id(slot)), uint64(number)<<16|uint64(slot))
	}
}

// insert places an entry; the table has room.
func (l *locator) insert(hash, place uint64) {
	mask := uint64(len(l.entries) - 1)
	// The place comes from the low bits and the tag from the high ones, so
	// that neighbours in the table still differ in their tags.
	for i := hash & mask; ; i = (i + 1) & mask {
		if l.entries[i] == 0 {
			l.entries[i] = hash&tagMask | place
			l.used++
			return
		}
	}
}

// reserve makes room for n more entries at a load of at most three quarters.
func (l *locator) reserve(n int) {
	size := max(1024, len(l.entries))
	for (l.used+n)*4 > size*3 {
		size *= 2
	}
	if size == len(l.entries) {
		return
	}
	old := l.entries
	l.entries, l.used = make([]uint64, size), 0
	// Reinserting from each start of a run, in order, keeps "the first added is found".
	start := 0
	for start < len(old) && old[start] != 0 {
		start++
	}
	for i := range old {
		if e := old[(start+i)&(len(old)-1)]; e != 0 {
			t, slot := l.place(e)
			l.insert(l.hash(t.id(slot)), e&^tagMask)
		}
	}
}

func (l *locator) place(e uint64) (*table, int) {
	return l.tables[e>>16&(1<<20-1)], int(e & 0xffff)
}

// holds reports whether the chunk is in a table that was added.
func (l *locator) holds(id *chunker.ID) bool {
	_, _, ok := l.find(id, nil)
	return ok
}

// find returns the table and slot that hold the chunk, of those that are not in bad.
func (l *locator) find(id *chunker.ID, bad spoiled) (*table, int, bool) {
	if l.used == 0 {
		return nil, 0, false
	}
	hash := l.hash(id)
	mask := uint64(len(l.entries) - 1)
	for i := hash & mask; l.entries[i] != 0; i = (i + 1) & mask {
		if e := l.entries[i]; e&tagMask == hash&tagMask {
			if t, slot := l.place(e); *t.id(slot) == *id && !bad.has(&t.pack, slot) {
				return t, slot, true
			}
		}
	}
	return nil, 0, false
}
