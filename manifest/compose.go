package manifest

import "github.com/arcboxlabs/arcstore/chunker"

// composed is a leaf's entries as all layers together have them. Only data
// takes an ID's space: most of a guest's pages are holes.
type composed struct {
	// at has for each entry which ID of ids it has: unsaid, isHole, or more.
	at   [leafChunks]uint16
	ids  []byte // chunker.IDSize each, back to back
	left int    // entries that are unsaid
}

const (
	unsaid = 0 // by the layers so far; when none are left, a hole
	isHole = 1
)

// reset makes place for n entries, with ids of about size bytes.
func (c *composed) reset(n int, size int64) {
	c.left = n
	clear(c.at[:])
	const holes, step = 2 * chunker.IDSize, 16 << 10 // for unsaid and isHole; so that the next leaf fits too
	if size = holes + min(size, leafChunks*chunker.IDSize); int64(cap(c.ids)) < size {
		c.ids = make([]byte, 0, (size+step-1)/step*step)
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
					c.left--
				}
			}
		case data:
			c.underlayData(at, ids)
		}
	})
}

// underlayData gives the entries in at that are unsaid their IDs. Each entry
// takes one once, so there are never more than fit a uint16.
func (c *composed) underlayData(at []uint16, ids []byte) {
	for i := 0; i < len(at); {
		if at[i] != unsaid {
			i++
			continue
		}
		from, next := i, uint16(len(c.ids)/chunker.IDSize)
		for i < len(at) && at[i] == unsaid {
			at[i] = next
			next++
			i++
		}
		c.left -= i - from
		c.ids = append(c.ids, ids[from*chunker.IDSize:i*chunker.IDSize]...)
	}
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
