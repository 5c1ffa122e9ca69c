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

// relocator takes the chunks that a sweep moves.
type relocator interface {
	// from says which packs hold the chunks that are moved next.
	from(packs []PackID) error
	// move takes a chunk, of which about stored bytes lie on disk.
	move(id chunker.ID, stored int) error
}

// mover copies chunks into new packs, in the order in which they are given.
type mover struct {
	ctx context.Context
	s   *Store
	w   *Writer
	f   *Fetcher

	ids   []chunker.ID
	data  [][]byte
	arena []byte
	lost  int // chunks that turned out to be damaged
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

func (m *mover) from(packs []PackID) error {
	if err := m.flush(); err != nil {
		return err
	}
	m.f.Close()
	m.f = m.s.NewFetcher(packs)
	return nil
}

func (m *mover) move(id chunker.ID, _ int) error {
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
	// What is damaged stays where it is: the next census sees it.
	err := m.f.Salvage(m.ctx, m.ids, func(i int, data []byte) error {
		for ; len(data) > 0; i++ {
			// A short chunk ends what lies together, so all before the last are whole.
			n := min(size, len(data))
			m.data[i] = append(m.arena[i*size:i*size:(i+1)*size], data[:n]...)
			data = data[n:]
		}
		return nil
	}, func(int, error) { m.lost++ })
	if err != nil {
		return err
	}
	for i := range m.ids {
		if m.data[i] == nil {
			continue
		}
		// What it was is deleted soon: this is the last look at it.
		if m.s.hasher.Sum(m.data[i]) != m.ids[i] {
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
func (w *sweep) gather(ctx context.Context, c *census, group int, to relocator) error {
	f := w.s.NewFetcher(c.groups[group].Packs)
	defer f.Close()
	if err := to.from(c.groups[group].Packs); err != nil {
		return err
	}
	w.opts.Progress("gather", 0, 0)
	var ids []chunker.ID
	flush := func() error {
		refs, tables, _, err := f.resolve(ctx, ids, nil)
		if err != nil {
			return err
		}
		type place struct{ table, frame uint32 }
		used := make(map[place]uint16)
		for _, r := range refs {
			used[place{r.table, uint32(tables[r.table].frameOf(int(r.slot)))}]++
		}
		for _, r := range refs {
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
			if err := to.move(ids[r.i], t.share(int(r.slot))); err != nil {
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
