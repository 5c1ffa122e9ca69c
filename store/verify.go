package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"runtime"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/arcboxlabs/arcstore/chunker"
)

// VerifyOptions are the choices of a verification.
type VerifyOptions struct {
	// Data is how much of the packs' bytes to read and verify, in percent: those packs whose turn it is
	// longest, and 100 or more all of them. With 0, only the packs' tables are verified.
	Data float64
	// Packs limits it to these; nil means all.
	Packs []PackID
	// Progress is told the bytes done, of the total to be read.
	Progress func(done, total int64)
}

// Verified says what a verification found.
type Verified struct {
	Packs  int
	Chunks int64 // verified; without Data, those in the tables
	Bytes  int64 // read
	Damage []PackDamage
	// PacksRead of the Packs were read whole, BytesRead of their BytesTotal.
	PacksRead             int
	BytesRead, BytesTotal int64
	// NeverRead is the bytes of the packs that no verification has read whole
	// yet, and Since when all others had been.
	NeverRead int64
	Since     time.Time
	// Unnoted is why something could not be written down for later, as on a read-only disk: damage to be
	// healed, or whose turn is next. nil if all was.
	Unnoted error
}

// PackDamage is one thing wrong with a pack.
type PackDamage struct {
	Pack   PackID
	Offset int64        // -1 where it is the pack as a whole
	Chunks []chunker.ID // that are damaged; nil where not known
	Err    error
}

// Verify reads packs on all cores and lists what is damaged, which from then on does not count as there. It lists
// what was found before and not read now, too. An error means that it could not go on, not that it found something.
func (s *Store) Verify(ctx context.Context, opts VerifyOptions) (*Verified, error) {
	sizes, err := s.listPacks(ctx)
	if err != nil {
		return nil, err
	}
	s.damage.load()
	if opts.Packs != nil {
		all := sizes
		sizes = make(map[PackID]int64, len(opts.Packs))
		for _, id := range opts.Packs {
			if size, ok := all[id]; ok {
				sizes[id] = size
			}
		}
	}
	r := &verifyRun{s: s, sizes: sizes, v: &Verified{}, turns: loadTurns(s.disk, s.dir), progress: opts.Progress}
	r.read = r.turns.choose(sizes, opts.Data)
	for id, size := range sizes {
		r.v.BytesTotal += size
		if opts.Data == 0 || r.read[id] {
			r.total += size
		}
	}
	// By ID, that is by directory.
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for _, id := range slices.SortedFunc(maps.Keys(sizes), comparePacks) {
		g.Go(func() error { return r.pack(ctx, id) })
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	if opts.Data > 0 {
		if err := r.turns.save(s.disk, s.dir, r.packs()); err != nil && r.v.Unnoted == nil {
			r.v.Unnoted = err
		}
	}
	r.v.NeverRead, r.v.Since = r.turns.covered(sizes)
	slices.SortFunc(r.v.Damage, func(a, b PackDamage) int {
		if a.Pack != b.Pack {
			return comparePacks(a.Pack, b.Pack)
		}
		return int(min(1, max(-1, a.Offset-b.Offset)))
	})
	return r.v, nil
}

func comparePacks(a, b PackID) int { return slices.Compare(a[:], b[:]) }

// verifyRun is one verification.
type verifyRun struct {
	s        *Store
	sizes    map[PackID]int64
	read     map[PackID]bool // whole
	progress func(done, total int64)

	mu          sync.Mutex
	v           *Verified
	turns       turns
	done, total int64
}

// packs returns the packs in the store now; nil where that cannot be told.
func (r *verifyRun) packs() map[PackID]int64 {
	packs, err := r.s.listPacks(context.Background())
	if err != nil {
		return nil
	}
	return packs
}

func (r *verifyRun) advance(n int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.done += n
	if r.progress != nil {
		r.progress(r.done, r.total)
	}
}

// pack verifies one pack.
func (r *verifyRun) pack(ctx context.Context, id PackID) error {
	p := packVerifier{s: r.s, id: id, data: r.read[id], advance: func(int64) {}}
	if p.data {
		p.advance = r.advance
	}
	err := p.verify(ctx)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // swept meanwhile; what needed it is found out by the census
	}
	if err != nil {
		return err
	}
	unnoted := p.note()
	if !p.data {
		r.advance(r.sizes[id])
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if p.data {
		r.v.PacksRead++
		r.v.BytesRead += r.sizes[id]
		r.turns.took(id)
	}
	r.v.Packs++
	r.v.Chunks += p.chunks
	r.v.Bytes += p.read
	r.v.Damage = append(r.v.Damage, p.damage...)
	if r.v.Unnoted == nil {
		r.v.Unnoted = unnoted
	}
	return nil
}

// note makes what was found known, now and later.
func (p *packVerifier) note() error {
	switch {
	case p.unreadable:
		return p.s.damage.set(p.id, &mark{found: time.Now(), whole: true})
	case !p.data:
		p.recall()
		return nil
	case len(p.damage) > 0:
		return p.s.damage.set(p.id, &mark{found: time.Now(), slots: p.bad})
	}
	// What somebody found wrong with it was not in the pack.
	return p.s.damage.clear(p.id)
}

// recall lists the damage that was found when the pack was last read.
func (p *packVerifier) recall() {
	m := p.s.damage.mark(p.id)
	if m == nil || p.table == nil {
		return
	}
	d := PackDamage{Pack: p.id, Offset: -1}
	for slot := range p.table.slots() {
		if m.has(slot) {
			d.Chunks = append(d.Chunks, *p.table.id(slot))
		}
	}
	if len(d.Chunks) == 0 && len(p.damage) > 0 {
		return // that is the header, which says so itself
	}
	d.Err = &CorruptError{Pack: p.id, Offset: -1, Why: fmt.Sprintf("%d of its chunks were found damaged on %s", len(d.Chunks), m.found.UTC().Format(time.DateTime))}
	p.damage = append(p.damage, d)
}

// Census is what live needs of a store, and what the store holds.
type Census struct {
	Groups     []Group
	Packs      int
	PackBytes  int64 // of the files
	Chunks     int64 // dead ones included
	ChunkBytes int64 // of these, uncompressed
}

// Census counts what live, but for its Keep, needs of the store. What is known to be damaged
// does not count as there.
func (s *Store) Census(ctx context.Context, live Live) (*Census, error) {
	s.damage.load()
	live.Keep = nil
	c, err := s.takeSettled(ctx, live)
	if err != nil {
		return nil, err
	}
	out := &Census{Groups: c.groups, Packs: len(c.packs)}
	for _, p := range c.packs {
		out.PackBytes += p.size
		out.Chunks += int64(p.slots)
		for i := range p.frames {
			out.ChunkBytes += int64(p.frames[i].raw)
		}
	}
	return out, nil
}

// censusTries bounds how often a census is taken again.
const censusTries = 20

// takeSettled takes a census that finds nothing missing for the only reason
// that a sweep, perhaps another process's, moved it to a pack that was not there yet when they were listed.
func (s *Store) takeSettled(ctx context.Context, live Live) (*census, error) {
	for range censusTries {
		packs, err := s.listPacks(ctx)
		if err != nil {
			return nil, err
		}
		c, err := s.take(ctx, packs, live, false)
		if err != nil || !slices.ContainsFunc(c.groups, func(g Group) bool { return g.Lacks > 0 }) {
			return c, err
		}
		now, err := s.listPacks(ctx)
		if err != nil {
			return nil, err
		}
		swept := false
		for id := range packs {
			if _, ok := now[id]; !ok {
				swept = true
			}
		}
		if !swept {
			return c, nil
		}
	}
	return nil, errors.New("store: census: packs come and go faster than they can be counted; try again when no gc is running")
}
