package manifest

import "github.com/arcboxlabs/arcstore/chunker"

// composed is a leaf's entries as all layers together have them. Only data
// takes an ID's space: most of a guest's pages are holes.
type composed struct {
	// at has for each entry which ID of ids it has: unsaid, isHole, or more.
	at  [leafChunks]uint16
	ids []byte // chunker.IDSize each, back to back
}

const (
	unsaid = 0 // by the layers so far; when none are left, a hole
	isHole = 1
)

// reset makes place for ids of about size bytes.
func (c *composed) reset(size int64) {
	clear(c.at[:])
	const holes = 2 * chunker.IDSize // for unsaid and isHole
	if size = holes + min(size, leafChunks*chunker.IDSize); int64(cap(c.ids)) < size {
		c.ids = make([]byte, 0, size)
	}
	c.ids = c.ids[:holes]
	clear(c.ids)
}

// underlay adds an older layer's leaf of n entries below what newer layers
// said. From limit on nothing of it counts: a newer layer's stream ended there.
func (c *composed) underlay(leaf []byte, n, limit int) error {
	return decodeLeaf(leaf, n, func(k kind, first, count int, ids []byte) {
		at := c.at[first:max(first, min(first+count, limit))]
		switch k {
		case hole:
			for i := range at {
				if at[i] == unsaid {
					at[i] = isHole
				}
			}
		case data:
			// Each entry takes an ID once, so there are never more than fit a uint16.
			next := uint16(len(c.ids) / chunker.IDSize)
			if allUnsaid(at) {
				for i := range at {
					at[i] = next + uint16(i)
				}
				c.ids = append(c.ids, ids[:len(at)*chunker.IDSize]...)
				return
			}
			for i := range at {
				if at[i] == unsaid {
					at[i] = next
					next++
					c.ids = append(c.ids, ids[i*chunker.IDSize:][:chunker.IDSize]...)
				}
			}
		}
	})
}

func allUnsaid(at []uint16) bool {
	for _, a := range at {
		if a != unsaid {
			return false
		}
	}
	return true
}

// fill sets out to the entries from first on.
func (c *composed) fill(first int, out []chunker.ID) {
	for i, at := range c.at[first : first+len(out)] {
		if at <= isHole {
			out[i] = chunker.ID{}
		} else {
			out[i] = chunker.ID(c.ids[int(at)*chunker.IDSize:])
		}
	}
}
