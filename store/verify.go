package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"runtime"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/arcboxlabs/arcstore/chunker"
)

// VerifyOptions are the choices of a verification.
type VerifyOptions struct {
	// Data reads every frame and verifies every chunk; without it, only the packs' tables are.
	Data bool
	// Packs limits it to these; nil means all.
	Packs []PackID
	// Progress is told the bytes done, of all packs' sizes.
	Progress func(done, total int64)
}

// Verified says what a verification found.
type Verified struct {
	Packs  int
	Chunks int64 // verified
	Bytes  int64 // read
	Damage []PackDamage
	bad    damagedSlots
}

// PackDamage is one thing wrong with a pack.
type PackDamage struct {
	Pack   PackID
	Offset int64        // -1 where it is the pack as a whole
	Chunks []chunker.ID // that are damaged; nil where not known
	Err    error
}

// Verify reads packs on all cores and lists what is damaged. An error means
// that it could not go on, not that it found something.
func (s *Store) Verify(ctx context.Context, opts VerifyOptions) (*Verified, error) {
	sizes, err := s.listPacks(ctx)
	if err != nil {
		return nil, err
	}
	packs := opts.Packs
	if packs == nil {
		for id := range sizes {
			packs = append(packs, id)
		}
		slices.SortFunc(packs, func(a, b PackID) int { return slices.Compare(a[:], b[:]) })
	}
	total, done := int64(0), int64(0)
	for _, id := range packs {
		total += sizes[id]
	}
	v := &Verified{bad: make(damagedSlots)}
	var mu sync.Mutex
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for _, id := range packs {
		g.Go(func() error {
			p := packVerifier{s: s, id: id, data: opts.Data}
			err := p.verify(ctx)
			if errors.Is(err, fs.ErrNotExist) {
				return nil // swept meanwhile; what needed it is found out by the census
			}
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			v.Packs++
			v.Chunks += p.chunks
			v.Bytes += p.read
			v.Damage = append(v.Damage, p.damage...)
			if len(p.bad) > 0 {
				v.bad[id] = p.bad
			}
			done += sizes[id]
			if opts.Progress != nil {
				opts.Progress(done, total)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	slices.SortFunc(v.Damage, func(a, b PackDamage) int { return slices.Compare(a.Pack[:], b.Pack[:]) })
	return v, nil
}

// Census is what live needs of a store, and what the store holds.
type Census struct {
	Groups     []Group
	Packs      int
	PackBytes  int64 // of the files
	Chunks     int64 // dead ones included
	ChunkBytes int64 // of these, uncompressed
}

// Census counts what live needs of the store. What v, if not nil, found
// damaged does not count as there: a group that lacks chunks is affected by it.
func (s *Store) Census(ctx context.Context, live Live, v *Verified) (*Census, error) {
	packs, err := s.listPacks(ctx)
	if err != nil {
		return nil, err
	}
	ids := make([]PackID, 0, len(packs))
	for id := range packs {
		ids = append(ids, id)
	}
	var bad damagedSlots
	if v != nil {
		bad = v.bad
	}
	c, err := s.take(ctx, ids, live, bad, false)
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

// packVerifier verifies one pack.
type packVerifier struct {
	s    *Store
	id   PackID
	data bool

	chunks, read int64
	damage       []PackDamage
	bad          map[int]bool
}

func (p *packVerifier) verify(ctx context.Context) error {
	t, err := p.s.loadTable(p.id)
	if errors.Is(err, ErrCorrupt) {
		p.damage = append(p.damage, PackDamage{Pack: p.id, Offset: -1, Err: err})
		return nil
	}
	if err != nil {
		return err
	}
	p.chunks = int64(t.slots())
	f, err := p.s.disk.Open(packPath(p.s.dir, p.id))
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	defer f.Close()
	header := make([]byte, packHeaderSize)
	if _, err := f.ReadAt(header, 0); err != nil {
		return fmt.Errorf("store: read pack %s: %w", p.id, err)
	}
	if !slices.Equal(header, packHeader()) {
		p.damage = append(p.damage, PackDamage{Pack: p.id, Offset: 0,
			Err: &CorruptError{Pack: p.id, Offset: 0, Why: "header is not that of a pack"}})
	}
	if !p.data {
		return nil
	}
	p.bad = make(map[int]bool)
	r := frameReader{}
	defer r.decoder.close()
	buf := make([]byte, readSize)
	for at := 0; at < len(t.frames); {
		if err := ctx.Err(); err != nil {
			return err
		}
		end, size := at+1, int(t.frames[at].stored)
		for end < len(t.frames) && size+int(t.frames[end].stored) <= readSize {
			size += int(t.frames[end].stored)
			end++
		}
		if len(buf) < size {
			buf = make([]byte, size)
		}
		from := t.frames[at].offset
		if _, err := f.ReadAt(buf[:size], from); err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("store: read pack %s: %w", p.id, err)
		}
		p.read += int64(size)
		for ; at < end; at++ {
			fr := &t.frames[at]
			p.verifyFrame(&r, t, fr, buf[fr.offset-from:][:fr.stored])
		}
	}
	return nil
}

func (p *packVerifier) verifyFrame(r *frameReader, t *table, f *frame, stored []byte) {
	raw, err := r.decode(t, f, stored)
	damage := PackDamage{Pack: p.id, Offset: f.offset, Err: err}
	offset := 0
	for slot := int(f.first); slot < int(f.first)+int(f.chunks); slot++ {
		n := t.length(slot)
		if err == nil && chunker.Sum(raw[offset:offset+n]) == *t.id(slot) {
			offset += n
			continue
		}
		offset += n
		p.bad[slot] = true
		damage.Chunks = append(damage.Chunks, *t.id(slot))
		if damage.Err == nil {
			damage.Err = &CorruptError{Pack: p.id, Offset: f.offset, Chunk: *t.id(slot), Why: "chunk does not hash to its ID"}
		}
	}
	if damage.Err != nil {
		p.damage = append(p.damage, damage)
	}
}
