package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"

	"github.com/arcboxlabs/arcstore/chunker"
	"github.com/arcboxlabs/arcstore/store/disk"
)

const (
	// sweepUnused is how much of the packs may be dead after a sweep, as a
	// fraction of what is live.
	sweepUnused = 0.03
	// smallPacks is how many packs of less than half a full one may stay.
	smallPacks = 8
	// maxFragmentation is where a sweep lays a snapshot's chunks together again.
	maxFragmentation = 1.25
)

// SweepOptions are the choices of a sweep.
type SweepOptions struct {
	DryRun   bool
	Progress func(phase string, done, total int64)
	// Relocated is called with what a last census found, once everything
	// live is durable where it says and before anything else is deleted.
	Relocated func(ctx context.Context, groups []Group) error
}

// Swept says what a sweep did, or with DryRun would do.
type Swept struct {
	Live           int64 // distinct chunks
	Groups         []Group
	PacksDeleted   int
	PacksWritten   int
	ChunksMoved    int64
	BytesDeleted   int64 // of packs
	BytesRewritten int64 // of packs written
	Leftovers      int   // files of interrupted writers; a dry run beside a writer takes its for such
	BytesLeftover  int64 // in these
	NoRoom         bool  // the disk was too full to lay together all that is scattered, or to note where it lies
	Unreadable     int   // packs whose table is damaged and that stay, since they may hold what is lost
}

// Sweep deletes what is not live and lays together what is scattered. live is
// called once the sweep has begun: chunks that a Writer puts, or finds, from then on
// are safe until that Writer is closed and the sweep is over. One sweep runs at a time.
func (s *Store) Sweep(ctx context.Context, live func(context.Context) (Live, error), opts SweepOptions) (Swept, error) {
	if s.readOnly && !opts.DryRun {
		return Swept{}, ErrReadOnly
	}
	if opts.Progress == nil {
		opts.Progress = func(string, int64, int64) {}
	}
	if !s.readOnly {
		if err := s.beginSweep(); err != nil {
			return Swept{}, err
		}
		defer s.endSweep()
	}
	w := &sweep{s: s, opts: opts}
	var err error
	if w.live, err = live(ctx); err != nil {
		return Swept{}, err
	}
	err = w.run(ctx)
	return w.report, err
}

var errSweeping = errors.New("store: another sweep is running")

func (s *Store) beginSweep() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sweeping {
		return errSweeping
	}
	s.sweeping = true
	return nil
}

func (s *Store) endSweep() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sweeping = false
	for _, p := range s.held {
		p.pins--
	}
	s.held = nil
	gone, covered := s.index.stale(func(id PackID) bool { return s.packs[id] != nil })
	if gone*2 > covered {
		s.group.Go(func() { s.Reindex(context.Background()) }) // an error leaves the index to the next one
	}
}

// sweep is one run.
type sweep struct {
	s      *Store
	opts   SweepOptions
	live   Live
	report Swept
}

func (w *sweep) run(ctx context.Context) error {
	c, err := w.census(ctx)
	if err != nil {
		return err
	}
	if w.opts.DryRun {
		return w.dryRun(ctx, c)
	}
	if w.report.Leftovers, err = w.removeLeftovers(); err != nil {
		return err
	}
	// The dead go first: that needs no room, and makes some.
	if err := w.deleteDead(ctx, c); err != nil {
		return err
	}
	moved, err := w.move(ctx, c)
	if noRoom(err) {
		// The rest can wait. But of what got into new packs, the old copies must go, or a full disk is fuller than before.
		w.report.NoRoom, moved, err = true, true, nil
	}
	if err != nil {
		return err
	}
	if moved {
		// What was moved is now twice there. A new census sees the newer copies,
		// and so which packs are not needed anymore.
		if c, err = w.census(ctx); err != nil {
			return err
		}
	}
	if w.opts.Relocated != nil {
		switch err := w.opts.Relocated(ctx, w.report.Groups); {
		case noRoom(err):
			w.report.NoRoom = true // they are hints, and what is to be deleted next makes room
		case err != nil:
			return err
		}
	}
	if moved {
		if err := w.deleteDead(ctx, c); err != nil {
			return err
		}
	}
	return w.settle(ctx, c)
}

func (w *sweep) census(ctx context.Context) (*census, error) {
	packs, err := w.s.listPacks(ctx)
	if err != nil {
		return nil, err
	}
	w.s.mu.Lock()
	// One that is not known has a name, but perhaps not for good: its copies of chunks do not count.
	maps.DeleteFunc(packs, func(id PackID, _ int64) bool { return !w.s.readOnly && w.s.packs[id] == nil })
	w.s.mu.Unlock()
	w.opts.Progress("mark", 0, 0)
	c, err := w.s.take(ctx, packs, w.live, true)
	if err != nil {
		return nil, err
	}
	w.report.Groups, w.report.Unreadable, w.report.Live = c.groups, 0, 0
	for _, p := range c.unreadable {
		if p.keep {
			w.report.Unreadable++
		}
	}
	for _, p := range c.packs {
		w.report.Live += int64(p.liveChunks())
	}
	return c, nil
}

// deleteDead deletes the packs that hold nothing live and that no writer has come to need.
func (w *sweep) deleteDead(ctx context.Context, c *census) error {
	var dead []*packCensus
	s := w.s
	s.mu.Lock()
	for _, p := range slices.Concat(c.packs, c.unreadable) {
		if known := s.packs[p.id]; p.dead() && known != nil && known.pins == 0 {
			known.condemned = true // from here on, look-ups miss
			dead = append(dead, p)
		}
	}
	s.mu.Unlock()
	for _, p := range dead {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := s.disk.Remove(packPath(s.dir, p.id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("store: sweep: %w", err)
		}
		if err := s.damage.clear(p.id); err != nil {
			return err
		}
		w.report.PacksDeleted++
		w.report.BytesDeleted += p.size
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range dead {
		delete(s.packs, p.id)
	}
	s.setOutside(slices.DeleteFunc(s.outside, func(t *table) bool { return s.packs[t.pack] == nil }))
	if len(dead) > 0 {
		s.resetNear()
	}
	return nil
}

func (w *sweep) removeLeftovers() (int, error) {
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	if w.s.writers > 0 {
		return 0, nil // theirs are not leftovers
	}
	w.s.configMu.Lock() // nor is the config's, while it is written
	defer w.s.configMu.Unlock()
	total := 0
	for _, dir := range w.s.leftoverDirs() {
		_, bytes, err := disk.Temporary(w.s.disk, dir)
		n := 0
		if err == nil {
			n, err = disk.RemoveTemporary(w.s.disk, dir)
		}
		if err != nil {
			return total, fmt.Errorf("store: sweep: %w", err)
		}
		total += n
		w.report.BytesLeftover += bytes
	}
	return total, nil
}

// leftoverDirs returns where writers that died may have left temporary files.
func (s *Store) leftoverDirs() []string {
	return []string{s.dir, filepath.Join(s.dir, packsName), s.damage.dir}
}

// move copies what is scattered, or lies in packs that are worth rewriting,
// into new packs, in the order in which it is wanted.
func (w *sweep) move(ctx context.Context, c *census) (bool, error) {
	m, err := newMover(ctx, w.s)
	if err != nil {
		return false, err
	}
	defer m.close()
	if err := w.moveAll(ctx, c, m); err != nil {
		return false, err
	}
	written, err := m.commit()
	if err != nil {
		return false, err
	}
	w.report.ChunksMoved += written.Chunks
	w.report.BytesRewritten += written.Stored
	w.report.PacksWritten += len(written.Packs)
	return written.Chunks > 0 || m.lost > 0, nil
}

// moveAll gives to everything that is to be moved.
func (w *sweep) moveAll(ctx context.Context, c *census, to relocator) error {
	for g := range c.groups {
		if c.groups[g].Lacks == 0 && c.groups[g].Fragmentation(w.s.config.ChunkSize) > maxFragmentation {
			if err := w.gather(ctx, c, g, to); err != nil {
				return err
			}
		}
	}
	packs := w.rewritable(c)
	total, done := int64(0), int64(0)
	for _, p := range packs {
		total += p.size
	}
	// Batches bound the memory, at the price of order between them.
	for len(packs) > 0 {
		type chunk struct {
			order  uint32
			id     chunker.ID
			stored int
		}
		var batch []chunk
		var from []PackID
		for len(packs) > 0 && len(batch) < censusChunks/4 {
			p := packs[0]
			packs = packs[1:]
			from = append(from, p.id)
			t, err := w.s.loadTable(p.id)
			if errors.Is(err, ErrCorrupt) {
				continue // the next census sees it
			}
			if err != nil {
				return err
			}
			for slot := range t.slots() {
				if p.isLive(slot) {
					batch = append(batch, chunk{p.order[slot], *t.id(slot), t.share(slot)})
				}
			}
			clear(p.live) // once moved, they are not live where they were
			done += p.size
		}
		if err := to.from(from); err != nil {
			return err
		}
		slices.SortStableFunc(batch, func(a, b chunk) int { return cmp.Compare(a.order, b.order) })
		for i := range batch {
			if err := to.move(batch[i].id, batch[i].stored); err != nil {
				return err
			}
		}
		w.opts.Progress("rewrite", done, total)
	}
	return nil
}

// rewritable returns the packs worth rewriting: those with damaged chunks that
// nobody needs anymore, the deadest, until little enough of the rest is dead, and the small ones, when there are many.
func (w *sweep) rewritable(c *census) []*packCensus {
	type candidate struct {
		p    *packCensus
		live int64
	}
	var packs []candidate
	var out []*packCensus
	var live, dead int64
	small := 0
	bad := w.s.damage.spoiled()
	for _, p := range c.packs {
		n := p.liveBytes()
		if p.liveChunks() == 0 || p.keep || w.pinned(p.id) {
			continue
		}
		if _, damaged := bad[p.id]; damaged {
			out = append(out, p)
			continue
		}
		packs = append(packs, candidate{p, n})
		live += n
		dead += p.size - n
		if w.small(p) {
			small++
		}
	}
	slices.SortFunc(packs, func(a, b candidate) int {
		return cmp.Compare(float64(a.live)/float64(a.p.size), float64(b.live)/float64(b.p.size))
	})
	for _, x := range packs {
		// The table and the footer are dead weight that a rewrite cannot drop.
		overhead := int64(x.p.liveChunks())*(chunker.IDSize+2) + packFooterSize
		gain := x.p.size - x.live - overhead
		if (float64(dead) > sweepUnused*float64(live) && gain > x.p.size/100) || (small > smallPacks && w.small(x.p)) {
			out = append(out, x.p)
			dead -= x.p.size - x.live
		}
	}
	return out
}

// dead reports whether nothing in a pack is of use to anybody.
func (p *packCensus) dead() bool { return !p.keep && p.liveChunks() == 0 }

// small reports whether a pack is far from full, by bytes and by slots.
func (w *sweep) small(p *packCensus) bool { return p.size < w.s.packSize/2 && p.slots < maxSlots/2 }

// pinned reports whether a writer needs the pack as it is.
func (w *sweep) pinned(id PackID) bool {
	if w.s.readOnly {
		return false // a dry run, which knows nothing of the writer
	}
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	p := w.s.packs[id]
	return p == nil || p.pins > 0
}
