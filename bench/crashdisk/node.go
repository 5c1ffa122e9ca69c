package crashdisk

import (
	"maps"
	"math/rand/v2"
	"slices"
)

const sector = 512

// extent is a part of a file, in bytes.
type extent struct{ from, to int }

// node is a file or a directory.
type node struct {
	dir bool

	// Of a file: its bytes, those that are durable, and which of its bytes are to become so with the next Sync.
	data, durable []byte
	dirty         []extent

	// Of a directory: its entries, those that are durable, and what each name stood for since, nil for nothing.
	live, kept map[string]*node
	changes    map[string][]*node
}

func newDir() *node {
	return &node{dir: true, live: map[string]*node{}, kept: map[string]*node{}, changes: map[string][]*node{}}
}

// set changes an entry of a directory; nil removes it.
func (n *node) set(name string, child *node) {
	if child == nil {
		delete(n.live, name)
	} else {
		n.live[name] = child
	}
	n.changes[name] = append(n.changes[name], child)
}

// syncDir makes the entries durable.
func (n *node) syncDir() {
	n.kept = maps.Clone(n.live)
	clear(n.changes)
}

// write appends to a file.
func (n *node) write(b []byte) {
	from := len(n.data)
	n.data = append(n.data, b...)
	if len(b) > 0 {
		n.dirty = append(n.dirty, extent{from, len(n.data)})
	}
}

// sync makes durable what was written since the last time. Where it fails, that
// is lost: the system takes the pages for clean, and no later sync writes them.
func (n *node) sync(ok bool) {
	if ok {
		n.durable = apply(n.durable, n.data, n.dirty)
	}
	n.dirty = nil
}

// apply returns old with some of data's extents over it.
func apply(old, data []byte, extents []extent) []byte {
	b := slices.Clone(old)
	for _, e := range extents {
		if len(b) < e.to {
			b = append(b, make([]byte, e.to-len(b))...)
		}
		copy(b[e.from:e.to], data[e.from:e.to])
	}
	return b
}

// lose returns what a loss of power leaves of a file: each write since the last
// sync is there, gone, or torn at a sector.
func (n *node) lose(r *rand.Rand) []byte {
	if len(n.dirty) == 0 {
		return n.durable
	}
	var kept []extent
	mode := r.IntN(4) // all, none, or each by itself
	for _, e := range n.dirty {
		switch what := mode; {
		case what == 1:
			e.to = e.from
		case what > 1 && r.IntN(3) == 0:
			e.to = e.from
		case what > 1 && r.IntN(2) == 0:
			e.to = min(e.to, (e.from/sector+1+r.IntN((e.to-e.from)/sector+1))*sector)
		}
		kept = append(kept, e)
	}
	b := apply(n.durable, n.data, kept)
	// Lengths are metadata, and may come before the data: the rest is zeros.
	if last := n.dirty[len(n.dirty)-1].to; r.IntN(2) == 0 && len(b) < last {
		b = append(b, make([]byte, last-len(b))...)
	}
	return b
}

// entries returns what a loss of power leaves of a directory: each name stands
// for what it stood for at some moment since the last sync, independently.
func (n *node) entries(r *rand.Rand) map[string]*node {
	left := maps.Clone(n.kept)
	for _, name := range slices.Sorted(maps.Keys(n.changes)) {
		changes := n.changes[name]
		if at := r.IntN(len(changes) + 1); at > 0 {
			if changes[at-1] == nil {
				delete(left, name)
			} else {
				left[name] = changes[at-1]
			}
		}
	}
	return left
}
