package store

import (
	"context"
	"errors"
	"io/fs"
	"math"
	"math/bits"
	"slices"

	"github.com/arcboxlabs/arcstore/chunker"
)

// censusChunks is how many chunks one pass of a census holds in memory. A
// larger store takes several passes over its tables and the live IDs.
const censusChunks = 2 << 20

// Live is what is needed of the store: groups of chunks, a group a snapshot,
// the ones first whose order on disk matters most.
type Live struct {
	Groups int
	// Walk calls visit with the IDs of a group, in the order in which a
	// restore wants them; holes may be among them. It is called several times.
	Walk func(ctx context.Context, group int, visit func(ids []chunker.ID) error) error
	// Keep, if not nil, is asked after Walk for packs of which more may be needed than Walk could tell; all may.
	Keep func() (packs []PackID, all bool)
}

// Group is what a census finds of a group.
type Group struct {
	Packs   []PackID     // that hold its chunks, newest first
	Frames  int64        // distinct ones that hold its chunks; -1 where not counted
	Chunks  int64        // visited, holes not counted
	Bytes   int64        // of these chunks, uncompressed
	Missing []chunker.ID // the first few chunks that the store lacks
	Lacks   int64        // how many it lacks, damaged ones included
	Lost    int64        // of these, those of which there is not even a damaged copy
	Damaged []PackID     // that hold damaged copies of chunks that it lacks
}

// lacks counts a chunk that cannot be had; copies are where it is, damaged.
func (g *Group) lacks(id *chunker.ID, copies []*packCensus) {
	g.Lacks++
	if len(g.Missing) < 10 {
		g.Missing = append(g.Missing, *id)
	}
	if len(copies) == 0 {
		g.Lost++
	}
	for _, p := range copies {
		p.keep = true
		if !slices.Contains(g.Damaged, p.id) {
			g.Damaged = append(g.Damaged, p.id)
		}
	}
}

// Fragmentation returns how many frames a restore of the group reads for each
// frame that it would if its chunks lay together: 1 is ideal.
func (g *Group) Fragmentation(chunkSize int) float64 {
	if g.Frames <= 0 || g.Bytes == 0 {
		return 1
	}
	return float64(g.Frames) * float64(max(frameTarget, chunkSize)) / float64(max(g.Bytes, int64(frameTarget)))
}

// census says which chunks of which packs are live.
type census struct {
	groups     []Group
	packs      []*packCensus // newest first: of a chunk's copies, the newest one is live
	byID       map[PackID]*packCensus
	unreadable []*packCensus // packs whose table cannot be read
}

// packCensus is what a census knows of a pack.
type packCensus struct {
	number  int // in census.packs
	id      PackID
	created int64
	size    int64
	slots   int
	chunk   int // chunk size
	frames  []frame
	base    int      // of its frames, in bitmaps over all frames
	live    []uint64 // a bit a slot
	order   []uint32 // when each slot was first visited; nil when not asked for
	keep    bool     // as it is: it may hold what is left of chunks that are needed and damaged
}

func (p *packCensus) liveChunks() int {
	n := 0
	for _, w := range p.live {
		n += bits.OnesCount64(w)
	}
	return n
}

// liveBytes returns the stored bytes of the pack's live chunks, a frame's divided evenly.
func (p *packCensus) liveBytes() int64 {
	sum := 0.0
	for i := range p.frames {
		f := &p.frames[i]
		n := 0
		for slot := f.first; slot < f.first+uint32(f.chunks); slot++ {
			if p.isLive(int(slot)) {
				n++
			}
		}
		sum += float64(f.stored) * float64(n) / float64(f.chunks)
	}
	return int64(sum)
}

func (p *packCensus) isLive(slot int) bool { return p.live[slot>>6]&(1<<(slot&63)) != 0 }

// take counts what of the packs ids live needs.
// What is known to be damaged does not count as there.
func (s *Store) take(ctx context.Context, ids map[PackID]int64, live Live, ordered bool) (*census, error) {
	c := &census{groups: make([]Group, live.Groups), byID: make(map[PackID]*packCensus, len(ids))}
	bad := s.damage.spoiled()
	chunks, frames := 0, 0
	for id, size := range ids {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		t, err := s.loadTable(id)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case errors.Is(err, ErrCorrupt):
			c.unreadable = append(c.unreadable, &packCensus{id: id, size: size})
			continue
		case err != nil:
			return nil, err
		}
		p := &packCensus{id: id, created: t.created, size: t.size, slots: t.slots(), chunk: t.chunkSize, frames: t.frames,
			live: make([]uint64, (t.slots()+63)/64)}
		if ordered {
			p.order = make([]uint32, t.slots())
		}
		c.packs = append(c.packs, p)
		c.byID[id] = p
		chunks += p.slots
	}
	slices.SortFunc(c.packs, func(a, b *packCensus) int {
		if a.created != b.created {
			return int(min(1, max(-1, b.created-a.created)))
		}
		return slices.Compare(a.id[:], b.id[:])
	})
	for i, p := range c.packs {
		p.number, p.base = i, frames
		frames += len(p.frames)
	}
	passes := min(256, (chunks+censusChunks-1)/censusChunks)
	counter := newFrameCounter(live.Groups, frames, len(c.packs), passes)
	for pass := range max(1, passes) {
		if err := s.takePass(ctx, c, live, bad, counter, pass, passes); err != nil {
			return nil, err
		}
	}
	c.keep(live)
	for g := range c.groups {
		c.groups[g].Frames = counter.frames(g)
		for i, p := range c.packs {
			if counter.hasPack(g, i) {
				c.groups[g].Packs = append(c.groups[g].Packs, p.id)
			}
		}
	}
	return c, nil
}

// lost returns how many chunks the groups need of which there is no copy.
func (c *census) lost() (n int64) {
	for g := range c.groups {
		n += c.groups[g].Lost
	}
	return n
}

// keep marks the packs that hold more than can be told.
func (c *census) keep(live Live) {
	// What is lost may have been in those that cannot be read.
	if c.lost() > 0 {
		for _, p := range c.unreadable {
			p.keep = true
		}
	}
	if live.Keep == nil {
		return
	}
	packs, all := live.Keep()
	for _, p := range slices.Concat(c.packs, c.unreadable) {
		p.keep = p.keep || all || slices.Contains(packs, p.id)
	}
}

// takePass does the part of a census whose IDs fall into one of passes parts.
func (s *Store) takePass(ctx context.Context, c *census, live Live, bad spoiled, counter *frameCounter, pass, passes int) error {
	inPart := func(id *chunker.ID) bool { return passes <= 1 || int(id[0])*passes>>8 == pass }
	l := newLocator()
	packOf := []*packCensus{nil} // by the locator's table number
	slotOf := [][]uint16{nil}    // slot in the locator's table → in the pack, where they differ
	damaged := make(map[chunker.ID][]*packCensus)
	for _, p := range c.packs {
		t, err := s.loadTable(p.id)
		if errors.Is(err, ErrCorrupt) {
			p.keep = true // it was readable a moment ago
			continue
		}
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		slots := make([]uint16, 0, t.slots())
		for slot := range t.slots() {
			switch id := t.id(slot); {
			case !inPart(id):
			case bad.has(&p.id, slot):
				damaged[*id] = append(damaged[*id], p)
			case l.holds(id): // the newer copy: who goes on from slot to slot must not come upon this one
			default:
				slots = append(slots, uint16(slot))
			}
		}
		part := t
		if len(slots) == t.slots() {
			slots = nil
		} else {
			part = &table{pack: t.pack, chunkSize: t.chunkSize, frames: t.frames, shorts: t.shorts, ids: make([]byte, 0, len(slots)*chunker.IDSize)}
			for _, slot := range slots {
				part.ids = append(part.ids, t.id(int(slot))[:]...)
			}
		}
		l.add(part)
		packOf = append(packOf, p)
		slotOf = append(slotOf, slots)
	}
	position := uint64(0)
	for g := range live.Groups {
		group := &c.groups[g]
		err := live.Walk(ctx, g, func(ids []chunker.ID) error {
			var last *table
			next, number := 0, 0
			for i := range ids {
				id := &ids[i]
				if id.IsHole() || !inPart(id) {
					continue
				}
				position++
				if last == nil || next >= last.slots() || *last.id(next) != *id {
					t, slot, ok := l.find(id, nil)
					if !ok {
						group.lacks(id, damaged[*id])
						continue
					}
					last, next, number = t, slot, l.numbers[t.pack]
				}
				p, slot := packOf[number], next
				if slotOf[number] != nil {
					slot = int(slotOf[number][next])
				}
				next++
				group.Chunks++
				group.Bytes += int64(last.length(slot))
				if bit := uint64(1) << (slot & 63); p.live[slot>>6]&bit == 0 {
					p.live[slot>>6] |= bit
					if p.order != nil {
						p.order[slot] = uint32(min(position, math.MaxUint32))
					}
				}
				counter.add(g, p, slot)
			}
			return ctx.Err()
		})
		if err != nil {
			return err
		}
		counter.end(g)
	}
	return nil
}

// frameCounter counts the distinct frames and packs of each group.
type frameCounter struct {
	packs   [][]uint64 // a bit a pack, by group
	bitmaps [][]uint64 // a bit a frame: by group in several passes, else one for all
	counts  []int64
	single  bool

	last  *packCensus // the pack of the last chunk,
	frame int         // and its frame
}

// frameCounterMemory bounds the bitmaps that several passes need, in bytes;
// the groups beyond it are not counted.
const frameCounterMemory = 32 << 20

func newFrameCounter(groups, frames, packs, passes int) *frameCounter {
	c := &frameCounter{counts: make([]int64, groups), single: passes <= 1}
	words := (frames + 63) / 64
	for g := range groups {
		c.packs = append(c.packs, make([]uint64, (packs+63)/64))
		if (c.single && g > 0) || (!c.single && (g+1)*words*8 > frameCounterMemory) {
			c.counts[g] = 0
			if !c.single {
				c.counts[g] = -1
			}
			continue
		}
		c.bitmaps = append(c.bitmaps, make([]uint64, words))
	}
	return c
}

func (c *frameCounter) add(group int, p *packCensus, slot int) {
	c.packs[group][p.number>>6] |= 1 << (p.number & 63)
	b := group
	if c.single {
		b = 0
	} else if c.counts[group] < 0 {
		return
	}
	if f := &p.frames[min(c.frame, len(p.frames)-1)]; p != c.last || slot < int(f.first) || slot >= int(f.first)+int(f.chunks) {
		c.last, c.frame = p, frameAt(p.frames, slot)
	}
	at := p.base + c.frame
	if bit := uint64(1) << (at & 63); c.bitmaps[b][at>>6]&bit == 0 {
		c.bitmaps[b][at>>6] |= bit
		c.counts[group]++
	}
}

// end says that a group was walked.
func (c *frameCounter) end(int) {
	if c.single {
		clear(c.bitmaps[0])
	}
}

func (c *frameCounter) frames(group int) int64 { return c.counts[group] }

func (c *frameCounter) hasPack(group, pack int) bool {
	return c.packs[group][pack>>6]&(1<<(pack&63)) != 0
}
