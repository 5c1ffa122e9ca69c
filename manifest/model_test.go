package manifest

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"

	"github.com/arcboxlabs/arcstore/chunker"
)

// modelStream is what a stream of a snapshot should be.
type modelStream struct {
	size    int64
	entries []chunker.ID
	data    map[int64]chunker.ID // entries that were said to be data, not inherited
}

// model is a chain of snapshots beside what it should hold.
type model struct {
	r         *rand.Rand
	f         *Files
	chunkSize int
	streams   map[string]*modelStream // of the newest
	digest    Digest
	table     *Table // nil before the first
}

// TestModel builds chains of snapshots at random and compares every entry of
// each with a model.
func TestModel(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			r := rand.New(rand.NewPCG(seed, 1))
			m := &model{r: r, f: OpenFiles(filepath.Join(t.TempDir(), "m"), nil), chunkSize: 4096 << r.IntN(3), streams: map[string]*modelStream{}}
			generations := 100
			if testing.Short() {
				generations = 40
			}
			full := 0
			for g := range generations {
				if err := m.next(); err != nil {
					t.Fatalf("seed %d, generation %d: %v", seed, g, err)
				}
				if err := m.check(); err != nil {
					t.Fatalf("seed %d, generation %d: %v", seed, g, err)
				}
				if _, ok := m.table.Parent(); !ok {
					full++
				}
				if n := len(m.table.Layers()); n > MaxDepth+1 {
					t.Fatalf("seed %d, generation %d: %d layers", seed, g, n)
				}
			}
			if full < 3 {
				t.Errorf("%d of %d manifests are full: the bounds were not put to the test", full, generations)
			}
			m.table.Close()
		})
	}
}

// sizes of streams, in chunks, around those at which something changes.
var modelSizes = []int64{0, 1, 2, 100, leafChunks - 1, leafChunks, leafChunks + 1, 2*leafChunks + 50, 3 * leafChunks}

func (m *model) next() error {
	ctx := context.Background()
	parent := m.streams
	m.streams = map[string]*modelStream{}
	for _, name := range []string{MemoryStream, "vmstate", "criu/pages-1.img", "criu/pages-2.img"} {
		p := parent[name]
		switch {
		case name != MemoryStream && m.r.IntN(10) == 0: // gone, or not there yet
			continue
		case p != nil && m.r.IntN(10) > 0:
			m.streams[name] = &modelStream{size: p.size}
		default:
			n := modelSizes[m.r.IntN(len(modelSizes))]
			size := n * int64(m.chunkSize)
			if n > 0 && m.r.IntN(2) == 0 {
				size -= m.r.Int64N(int64(m.chunkSize)) // a short last chunk
			}
			m.streams[name] = &modelStream{size: size}
		}
	}
	b, err := m.f.Build(ctx, m.chunkSize, m.table)
	if err != nil {
		return err
	}
	defer b.Abort()
	names := slices.Sorted(maps.Keys(m.streams))
	m.r.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	for _, name := range names {
		s := m.streams[name]
		out, err := b.Stream(name, s.size)
		if err != nil {
			return err
		}
		if err := m.fill(out, s, parent[name]); err != nil {
			return fmt.Errorf("stream %s: %w", name, err)
		}
	}
	digest, err := b.Commit(ctx)
	if err != nil {
		return err
	}
	if m.table != nil {
		m.table.Close()
	}
	m.digest = digest
	m.table, err = m.f.Open(ctx, digest)
	return err
}

// length returns the length of the i-th chunk of a stream of size bytes.
func (m *model) length(size, i int64) int64 {
	return min(int64(m.chunkSize), size-i*int64(m.chunkSize))
}

// inheritable returns how many entries from at on the parent has, with the same lengths.
func (m *model) inheritable(s, p *modelStream, at int64) int64 {
	if p == nil {
		return 0
	}
	n := int64(0)
	for i := at; i < min(chunks(s.size, m.chunkSize), int64(len(p.entries))); i++ {
		if !p.entries[i].IsHole() && m.length(s.size, i) != m.length(p.size, i) {
			break
		}
		n++
	}
	return n
}

func (m *model) fill(out *StreamBuilder, s, p *modelStream) error {
	total := chunks(s.size, m.chunkSize)
	s.data = map[int64]chunker.ID{}
	change := []int{1, 1, 3}[m.r.IntN(3)] // how much of it, in tenths
	for int64(len(s.entries)) < total {
		at := int64(len(s.entries))
		n := 1 + m.r.Int64N(min(total-at, []int64{3, 100, 5000}[m.r.IntN(3)]))
		var err error
		switch can := m.inheritable(s, p, at); {
		case can > 0 && m.r.IntN(10) >= change:
			n = min(can, n*int64(1+m.r.IntN(20)))
			s.entries = append(s.entries, p.entries[at:at+n]...)
			err = out.Inherit(n)
		case m.r.IntN(3) == 0:
			s.entries = append(s.entries, make([]chunker.ID, n)...)
			err = out.Hole(n)
		default:
			n = min(n, 600)
			for i := range n {
				id := chunker.ID{}
				if m.r.IntN(3) > 0 {
					id = randomID(m.r)
					s.data[at+i] = id
				}
				s.entries = append(s.entries, id)
			}
			err = out.Append(s.entries[at:])
		}
		if err != nil {
			return fmt.Errorf("%d entries from %d on: %w", n, at, err)
		}
	}
	return nil
}

func (m *model) check() error {
	ctx := context.Background()
	if err := m.f.Verify(ctx, m.digest); err != nil {
		return err
	}
	streams := map[string][]chunker.ID{}
	for name, s := range m.streams {
		streams[name] = s.entries
	}
	if err := sameTable(m.table, streams); err != nil {
		return err
	}
	for name, s := range m.streams {
		t, err := m.table.Stream(name)
		if err != nil {
			return err
		}
		for range 20 {
			first := m.r.Int64N(t.Len() + 1)
			ids := make([]chunker.ID, m.r.Int64N(min(t.Len()-first, 700)+1))
			if err := t.Lookup(first, ids); err != nil {
				return err
			}
			if !slices.Equal(ids, s.entries[first:first+int64(len(ids))]) {
				return fmt.Errorf("stream %s: other entries in %d from %d on", name, len(ids), first)
			}
		}
		if err := m.checkOwn(ctx, t, s); err != nil {
			return fmt.Errorf("stream %s: own: %w", name, err)
		}
	}
	return nil
}

// checkOwn: what was said to be data, and in a full manifest all data.
func (m *model) checkOwn(ctx context.Context, t *StreamTable, s *modelStream) error {
	want := s.data
	if _, ok := m.table.Parent(); !ok {
		want = map[int64]chunker.ID{}
		for i, id := range s.entries {
			if !id.IsHole() {
				want[int64(i)] = id
			}
		}
	}
	got := map[int64]chunker.ID{}
	last := int64(-1)
	err := t.Own(ctx, func(first int64, ids []chunker.ID) error {
		if first <= last {
			return fmt.Errorf("entry %d comes after %d", first, last)
		}
		for i, id := range ids {
			last = first + int64(i)
			got[last] = id
		}
		return nil
	})
	if err == nil && !maps.Equal(got, want) {
		err = fmt.Errorf("%d entries, want %d", len(got), len(want))
	}
	return err
}
