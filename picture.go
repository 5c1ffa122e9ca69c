package arcstore

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/arcboxlabs/arcstore/manifest"
)

const (
	// MaxPictureCells is how many cells a picture has at most.
	MaxPictureCells = 1 << 18
	// cellSample is how many chunks of a cell are looked at, at most.
	cellSample = 8
	// sharingSample is of how many chunks the sharing of targets is judged, roughly: of a larger store, a part is looked at.
	sharingSample = 1 << 20
)

// Picture shows what a stream of a snapshot consists of, cell by cell, each of which is the same number of chunks.
type Picture struct {
	Stream        string `json:"stream"`
	Size          int64  `json:"size"` // bytes
	ChunksPerCell int64  `json:"chunks_per_cell"`
	Cells         []Cell `json:"cells"`
}

// Cell says what some chunks are, in parts of 255 of those that were looked at: the rest is zero.
type Cell struct {
	Inherited uint8 `json:"inherited"` // as at the same offset of the parent, or of the snapshot that it is compared with
	Shared    uint8 `json:"shared"`    // not that, but in a snapshot of another target, or elsewhere in this one's parent
	New       uint8 `json:"new"`       // neither
}

// Picture looks at a sample of a stream's chunks. with is the snapshot that it is compared with; "" is its parent, if that is still there.
// Sharing is looked for in the newest snapshot of each other target.
func (m *Manager) Picture(ctx context.Context, ref, stream string, cells int, with string) (*Picture, error) {
	if cells < 1 || cells > MaxPictureCells {
		return nil, fmt.Errorf("arcstore: %w: a picture has 1 to %d cells, not %d", ErrInvalid, MaxPictureCells, cells)
	}
	e, err := m.getComplete(ctx, ref)
	if err != nil {
		return nil, err
	}
	t, err := m.openTable(ctx, e)
	if err != nil {
		return nil, err
	}
	defer t.Close()
	s, err := streamOf(t, stream)
	if err != nil {
		return nil, err
	}
	base, err := m.pictureBase(ctx, e, with)
	if err != nil {
		return nil, err
	}
	var same *manifest.StreamTable
	if base != nil {
		defer base.Close()
		same, _ = base.Stream(stream) // without one, nothing is as it was
	}
	perCell := max(1, (s.Len()+int64(cells)-1)/int64(cells))
	p := &Picture{Stream: stream, Size: s.Size(), ChunksPerCell: perCell, Cells: make([]Cell, (s.Len()+perCell-1)/perCell)}
	drawn, err := drawCells(ctx, s, same, perCell, len(p.Cells))
	if err != nil {
		return nil, err
	}
	if err := m.findShared(ctx, e, base, drawn); err != nil {
		return nil, err
	}
	drawn.paint(p.Cells)
	return p, nil
}

// streamOf is a stream of a snapshot, or ErrNoStream.
func streamOf(t *manifest.Table, name string) (*manifest.StreamTable, error) {
	s, err := t.Stream(name)
	if err != nil {
		return nil, fmt.Errorf("%w: %q", ErrNoStream, name)
	}
	return s, nil
}

// pictureBase opens what a snapshot is compared with; nil for nothing.
func (m *Manager) pictureBase(ctx context.Context, e *Snapshot, with string) (*manifest.Table, error) {
	if with == "" {
		parent, err := m.getComplete(ctx, e.Parent)
		if e.Parent == "" || err != nil {
			return nil, nil // it is gone, which is allowed
		}
		return m.openTable(ctx, parent)
	}
	other, err := m.getComplete(ctx, with)
	if err != nil {
		return nil, err
	}
	return m.openTable(ctx, other)
}

// drawnChunk is a chunk that a picture looks at and that is not as at the same offset elsewhere.
type drawnChunk struct {
	key    uint64 // of its ID
	cell   int
	shared bool
}

// drawing is what a picture looks at.
type drawing struct {
	counts []struct{ looked, inherited uint8 }
	own    []drawnChunk // sorted by key, once sort was called
}

// drawCells looks at chunks of each cell, at equal distances.
func drawCells(ctx context.Context, s, same *manifest.StreamTable, perCell int64, cells int) (*drawing, error) {
	d := &drawing{counts: make([]struct{ looked, inherited uint8 }, cells)}
	step := max(1, perCell/cellSample)
	var id, other [1]ChunkID
	for cell := range cells {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		first := int64(cell) * perCell
		c := &d.counts[cell]
		for i := first; i < min(first+perCell, s.Len()) && c.looked < cellSample; i += step {
			if err := s.Lookup(i, id[:]); err != nil {
				return nil, wrapManifest(err)
			}
			c.looked++
			if id[0].IsHole() {
				continue
			}
			if same != nil && i < same.Len() {
				if err := same.Lookup(i, other[:]); err != nil {
					return nil, wrapManifest(err)
				}
				if other[0] == id[0] {
					c.inherited++
					continue
				}
			}
			d.own = append(d.own, drawnChunk{key: keyOf(&id[0]), cell: cell})
		}
	}
	slices.SortFunc(d.own, func(a, b drawnChunk) int { return cmp.Compare(a.key, b.key) })
	return d, nil
}

// keyOf is enough of an ID to tell chunks apart in a picture.
func keyOf(id *ChunkID) uint64 { return binary.LittleEndian.Uint64(id[:]) }

// findShared marks what other targets have, too, and what the base has elsewhere.
func (m *Manager) findShared(ctx context.Context, e *Snapshot, base *manifest.Table, d *drawing) error {
	if len(d.own) == 0 {
		return nil
	}
	newest, err := m.newest(ctx)
	if err != nil {
		return err
	}
	for _, o := range newest {
		if o.TargetID == e.TargetID {
			continue
		}
		t, err := m.openTable(ctx, o)
		if IsCorrupt(err) {
			continue // it is damaged, and this is a picture
		}
		if err != nil {
			return err
		}
		err = eachID(ctx, t, d.mark)
		t.Close()
		if err != nil {
			return err
		}
	}
	if base != nil {
		return eachID(ctx, base, d.mark)
	}
	return nil
}

// mark notes that a chunk is elsewhere, too.
func (d *drawing) mark(id *ChunkID) {
	key := keyOf(id)
	i, _ := slices.BinarySearchFunc(d.own, key, func(c drawnChunk, key uint64) int { return cmp.Compare(c.key, key) })
	for ; i < len(d.own) && d.own[i].key == key; i++ {
		d.own[i].shared = true
	}
}

func (d *drawing) paint(cells []Cell) {
	shared, fresh := make([]uint8, len(cells)), make([]uint8, len(cells))
	for _, c := range d.own {
		if c.shared {
			shared[c.cell]++
		} else {
			fresh[c.cell]++
		}
	}
	for i := range cells {
		part := func(n uint8) uint8 { return uint8(int(n) * 255 / max(1, int(d.counts[i].looked))) }
		cells[i] = Cell{Inherited: part(d.counts[i].inherited), Shared: part(shared[i]), New: part(fresh[i])}
	}
}

// eachID visits the chunks of all streams, holes left out.
func eachID(ctx context.Context, t *manifest.Table, visit func(*ChunkID)) error {
	for _, info := range t.Streams() {
		s, err := t.Stream(info.Name)
		if err != nil {
			return wrapManifest(err)
		}
		if err := eachEntry(ctx, s, func(_ int64, ids []ChunkID) error {
			for i := range ids {
				if !ids[i].IsHole() {
					visit(&ids[i])
				}
			}
			return nil
		}); err != nil {
			return wrapManifest(err)
		}
	}
	return nil
}

// newest returns the newest ready snapshot of each target, by the targets' names.
func (m *Manager) newest(ctx context.Context) ([]*Snapshot, error) {
	entries, err := m.list(ctx)
	if err != nil {
		return nil, err
	}
	byTarget := make(map[string]*Snapshot)
	for _, e := range entries { // oldest first
		if e.State == manifest.Ready {
			byTarget[e.TargetID] = e
		}
	}
	newest := make([]*Snapshot, 0, len(byTarget))
	for _, e := range byTarget {
		newest = append(newest, e)
	}
	slices.SortFunc(newest, func(a, b *Snapshot) int { return cmp.Compare(a.TargetID, b.TargetID) })
	return newest, nil
}

// Sharing says how much the newest snapshots of targets have in common.
type Sharing struct {
	Targets []string `json:"targets"`
	// Shared[i][j] is how many bytes of distinct chunks target i has in common with target j, and Shared[i][i] how many it has. In
	// a large store, it is an estimate.
	Shared [][]int64 `json:"shared"`
}

// Sharing compares the newest ready snapshots of all targets.
func (m *Manager) Sharing(ctx context.Context) (*Sharing, error) {
	newest, err := m.newest(ctx)
	if err != nil {
		return nil, err
	}
	chunks := int64(0)
	for _, e := range newest {
		chunks += e.Size / int64(m.ChunkSize())
	}
	// IDs are hashes: those with low bits of 0 are as good a sample as any.
	mask, weight := uint64(0), int64(m.ChunkSize())
	for ; chunks > sharingSample; chunks /= 2 {
		mask, weight = mask<<1|1, weight*2
	}
	s := &Sharing{Targets: []string{}, Shared: [][]int64{}}
	keys := make([][]uint64, len(newest))
	for i, e := range newest {
		t, err := m.openTable(ctx, e)
		if err != nil {
			return nil, err
		}
		err = eachID(ctx, t, func(id *ChunkID) {
			if key := keyOf(id); key&mask == 0 {
				keys[i] = append(keys[i], key)
			}
		})
		t.Close()
		if err != nil {
			return nil, err
		}
		slices.Sort(keys[i])
		keys[i] = slices.Compact(keys[i])
		s.Targets = append(s.Targets, e.TargetID)
	}
	for i := range keys {
		row := make([]int64, len(keys))
		for j := range keys {
			row[j] = common(keys[i], keys[j]) * weight
		}
		s.Shared = append(s.Shared, row)
	}
	return s, nil
}

// common returns how many keys two sorted lists have in common.
func common(a, b []uint64) (n int64) {
	for len(a) > 0 && len(b) > 0 {
		switch {
		case a[0] < b[0]:
			a = a[1:]
		case a[0] > b[0]:
			b = b[1:]
		default:
			n++
			a, b = a[1:], b[1:]
		}
	}
	return n
}
