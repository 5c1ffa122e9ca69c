package store

import (
	"context"
	"fmt"

	"github.com/arcboxlabs/arcstore/chunker"
)

const (
	// moveBytes is how much a mover holds in memory before it writes.
	moveBytes = 16 << 20
	// gatherChunks is how much of a snapshot is looked at at once for frames
	// of which it needs little.
	gatherChunks = 1 << 20
)

// mover copies chunks into new packs, in the order in which they are given.
type mover struct {
	ctx context.Context
	s   *Store
	w   *Writer
	f   *Fetcher

	ids   []chunker.ID
	data  [][]byte
	arena []byte
}

func newMover(ctx context.Context, s *Store) (*mover, error) {
	w, err := s.NewWriter(ctx)
	if err != nil {
		return nil, err
	}
	return &mover{ctx: ctx, s: s, w: w, f: s.NewFetcher(nil)}, nil
}

func (m *mover) close() {
	m.w.Close()
	m.f.Close()
}

// from says which packs hold the chunks that are moved next.
func (m *mover) from(packs []PackID) error {
	if err := m.flush(); err != nil {
		return err
	}
	m.f.Close()
	m.f = m.s.NewFetcher(packs)
	return nil
}

// move takes a chunk.
func (m *mover) move(id chunker.ID) error {
	m.ids = append(m.ids, id)
	if len(m.ids)*m.s.config.ChunkSize >= moveBytes {
		return m.flush()
	}
	return nil
}

// flush copies what move took.
func (m *mover) flush() error {
	if len(m.ids) == 0 {
		return nil
	}
	size := m.s.config.ChunkSize
	if m.arena == nil {
		m.arena = make([]byte, moveBytes+size)
	}
	m.data = make([][]byte, len(m.ids))
	err := m.f.Fetch(m.ctx, m.ids, func(i int, data []byte) error {
		for ; len(data) > 0; i++ {
			// A short chunk ends what lies together, so all before the last are whole.
			n := min(size, len(data))
			m.data[i] = append(m.arena[i*size:i*size:(i+1)*size], data[:n]...)
			data = data[n:]
		}
		return nil
	})
	if err != nil {
		return err
	}
	for i := range m.ids {
		// What it was is deleted soon: this is the last look at it.
		if chunker.Sum(m.data[i]) != m.ids[i] {
			return fmt.Errorf("store: sweep: chunk %s was to be moved, but what came is another", m.ids[i])
		}
		if err := m.w.add(m.ids[i], m.data[i]); err != nil {
			return err
		}
	}
	m.ids = m.ids[:0]
	return nil
}

// commit makes what was moved durable.
func (m *mover) commit() (Written, error) {
	if err := m.flush(); err != nil {
		return Written{}, err
	}
	return m.w.Commit()
}

// gather moves those chunks of a group that lie in frames of which it needs less than three quarters.
func (w *sweep) gather(ctx context.Context, c *census, group int, m *mover) error {
	f := w.s.NewFetcher(c.groups[group].Packs)
	defer f.Close()
	if err := m.from(c.groups[group].Packs); err != nil {
		return err
	}
	w.opts.Progress("gather", 0, 0)
	var ids []chunker.ID
	flush := func() error {
		refs, tables, err := f.resolve(ctx, ids)
		if err != nil {
			return err
		}
		type place struct{ table, frame uint32 }
		used := make(map[place]uint16)
		for _, r := range refs {
			used[place{r.table, uint32(tables[r.table].frameOf(int(r.slot)))}]++
		}
		for i, r := range refs {
			t := tables[r.table]
			at := t.frameOf(int(r.slot))
			if n := used[place{r.table, uint32(at)}]; int(n)*4 >= int(t.frames[at].chunks)*3 {
				continue
			}
			// Once moved, it is not live where it was, and not moved again.
			p := c.byID[t.pack]
			if p == nil || !p.isLive(int(r.slot)) {
				continue
			}
			p.live[r.slot>>6] &^= 1 << (r.slot & 63)
			if err := m.move(ids[i]); err != nil {
				return err
			}
		}
		ids = ids[:0]
		return nil
	}
	err := w.live.Walk(ctx, group, func(part []chunker.ID) error {
		for i := range part {
			if !part[i].IsHole() {
				ids = append(ids, part[i])
			}
		}
		if len(ids) >= gatherChunks {
			return flush()
		}
		return nil
	})
	if err != nil {
		return err
	}
	return flush()
}
