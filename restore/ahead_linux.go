package restore

import (
	"context"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"github.com/arcboxlabs/arcstore/chunker"
	"github.com/arcboxlabs/arcstore/manifest"
	"github.com/arcboxlabs/arcstore/restore/uffd"
)

// aheadPages is how many pages of a working set are got at once.
const aheadPages = 1024

// loadAhead loads what nobody asked for yet: the working set, and after a while the rest.
func (m *Memory) loadAhead() {
	ctx := m.ctx
	if m.opts.WorkingSet != nil {
		if w := m.opts.WorkingSet(ctx); w != nil && w.Size == m.pages.Size() {
			if err := m.prefetch(ctx, w.Pages); err != nil {
				m.failAhead(err)
				return
			}
		}
	}
	limit := pace{rate.NewLimiter(rate.Limit(max(0, m.opts.FillRate)), copyStep), m.rush}
	if m.opts.FillRate < 0 {
		limit.SetLimit(rate.Inf)
	}
	var start <-chan time.Time
	if m.opts.FillRate != 0 {
		start = time.After(m.opts.FillAfter)
	}
	select {
	case <-start:
	case <-m.rush:
	case <-ctx.Done():
		return
	}
	if err := m.fill(ctx, limit); err != nil {
		m.failAhead(err)
		return
	}
	m.letGo()
}

// pace is how fast memory is filled, until there is a rush.
type pace struct {
	*rate.Limiter
	rush <-chan struct{}
}

// wait waits until n more bytes may be loaded.
func (p pace) wait(ctx context.Context, n int) error {
	select {
	case <-p.rush:
		return ctx.Err()
	default:
	}
	t := time.NewTimer(p.ReserveN(time.Now(), n).Delay())
	defer t.Stop()
	select {
	case <-t.C:
	case <-p.rush:
	case <-ctx.Done():
	}
	return ctx.Err()
}

func (m *Memory) failAhead(err error) {
	if m.ctx.Err() == nil {
		m.fail(err)
	}
}

// prefetch puts pages in place in this order. While some are put there, the next are got.
func (m *Memory) prefetch(ctx context.Context, pages []uint32) error {
	g, ctx := errgroup.WithContext(ctx)
	defer func() {
		for _, a := range m.ahead {
			a.f.Release()
		}
		m.ahead = nil
	}()
	ready := make(chan []uint32, 1)
	g.Go(func() error {
		defer close(ready)
		for part := range slices.Chunk(pages, aheadPages) {
			if err := m.warm(ctx, part); err != nil {
				return err
			}
			select {
			case ready <- part:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
	g.Go(func() error {
		for part := range ready {
			for _, page := range part {
				offset := int64(page) * pageSize
				r := m.regionOf(offset)
				if r == nil || m.present.has(int64(page)) || m.removed.has(int64(page)) {
					continue
				}
				before := m.loaded.Load()
				if err := m.bring(r, offset&^(r.PageSize-1), false); err != nil && !m.isDamage(err) { // who asks for it will be told
					return err
				}
				m.prefetched.Add(m.loaded.Load() - before) // about
			}
			// What came with them comes after them all.
			before := m.loaded.Load()
			for len(m.ahead) > 0 {
				if err := m.putAlong(m.ahead[0]); err != nil {
					return err
				}
				m.ahead = m.ahead[1:]
			}
			m.prefetched.Add(m.loaded.Load() - before)
			if err := ctx.Err(); err != nil {
				return err
			}
		}
		return nil
	})
	return g.Wait()
}

// warm gets the frames that hold pages.
func (m *Memory) warm(ctx context.Context, pages []uint32) error {
	size := m.pages.chunkSize
	var ids []chunker.ID
	var at []int64
	for _, page := range pages {
		offset := int64(page) * pageSize
		r := m.regionOf(offset)
		if r == nil || m.present.has(int64(page)) || m.removed.has(int64(page)) {
			continue
		}
		// A huge page takes many chunks.
		first, end := (offset&^(r.PageSize-1))/size, (offset&^(r.PageSize-1)+r.PageSize+size-1)/size
		for chunk := first; chunk < min(end, m.pages.t.Len()); chunk++ {
			var id [1]chunker.ID
			if err := m.pages.t.Lookup(chunk, id[:]); err != nil {
				return err
			}
			if !id[0].IsHole() {
				ids, at = append(ids, id[0]), append(at, chunk)
			}
		}
	}
	if len(ids) == 0 {
		return nil
	}
	return m.pages.src.Warm(ctx, ids, at)
}

// regionOf returns the region that holds a byte of the stream.
func (m *Memory) regionOf(offset int64) *MappedRegion {
	for i := range m.regions {
		if r := &m.regions[i]; offset >= r.Offset && offset-r.Offset < r.Size {
			return r
		}
	}
	return nil
}

// fill loads all data that is not there. What is damaged it poisons.
func (m *Memory) fill(ctx context.Context, limit pace) error {
	for i := range m.regions {
		r := &m.regions[i]
		if r.PageSize > pageSize {
			if err := m.fillHuge(ctx, r, limit); err != nil {
				return err
			}
		}
	}
	var lost []Range
	_, err := Stream(ctx, missing{m.pages.t, m}, m.pages.src, filler{ctx, m, limit}, Options{ChunkSize: int(m.pages.chunkSize),
		Lost: func(r Range) { lost = append(lost, r) }})
	if err != nil {
		return err
	}
	for _, l := range lost {
		for offset := l.Offset; offset < l.Offset+l.Length; offset += pageSize {
			page := offset / pageSize
			if r := m.regionOf(offset); r != nil && r.PageSize == pageSize && !m.present.has(page) && !m.removed.has(page) {
				if err := m.poison(r, offset, l.Why); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// fillHuge loads the huge pages of a region that have data.
func (m *Memory) fillHuge(ctx context.Context, r *MappedRegion, limit pace) error {
	size := m.pages.chunkSize
	ids := make([]chunker.ID, max(1, hugePage/size))
	for offset := r.Offset; offset < r.Offset+r.Size; offset += hugePage {
		if m.present.has(offset/pageSize) || m.removed.has(offset/pageSize) {
			continue
		}
		first := offset / size
		part := ids[:min(int64(len(ids)), m.pages.t.Len()-first)]
		if err := m.pages.t.Lookup(first, part); err != nil && !m.isDamage(err) {
			return err
		} else if err == nil && !slices.ContainsFunc(part, func(id chunker.ID) bool { return !id.IsHole() }) {
			continue
		}
		for n := 0; n < hugePage; n += copyStep {
			if err := limit.wait(ctx, copyStep); err != nil {
				return err
			}
		}
		err := m.bringHuge(r, offset, false)
		if err != nil && m.isDamage(err) {
			err = m.poison(r, offset, err)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// missing is a page table of what is not there yet: the rest is holes.
type missing struct {
	Table
	m *Memory
}

func (t missing) Lookup(first int64, ids []chunker.ID) error {
	err := t.Table.Lookup(first, ids)
	t.mask(first, ids)
	return err
}

func (t missing) Salvage(first int64, ids []chunker.ID) ([]manifest.Gap, error) {
	gaps, err := t.Table.Salvage(first, ids)
	t.mask(first, ids)
	return gaps, err
}

// mask makes holes of what is there.
func (t missing) mask(first int64, ids []chunker.ID) {
	for i := range ids {
		if !ids[i].IsHole() && t.m.there(first+int64(i)) {
			ids[i] = chunker.ID{}
		}
	}
}

// filler puts what is written to it in place, as fast as limit allows.
type filler struct {
	ctx   context.Context
	m     *Memory
	limit pace
}

func (f filler) WriteAt(p []byte, offset int64) (int, error) {
	for at := 0; at < len(p); {
		r := f.m.regionOf(offset + int64(at))
		n := min(len(p)-at, copyStep)
		if r == nil {
			return at, errGone
		}
		n = int(min(int64(n), r.Offset+r.Size-offset-int64(at)))
		if err := f.limit.wait(f.ctx, n); err != nil {
			return at, err
		}
		if r.PageSize == pageSize {
			if err := f.m.put(r, offset+int64(at), p[at:at+n], false); err != nil {
				return at, err
			}
		}
		at += n
	}
	return len(p), nil
}

// letGo ends the service once all is there: what is missing then reads as zeros.
func (m *Memory) letGo() {
	for i := range m.regions {
		r := &m.regions[i]
		for {
			err := uffd.Unregister(m.fd, r.Address, uint64(r.Size))
			if err == uffd.ErrBusy {
				if err = m.settle(); err == nil && m.ctx.Err() == nil {
					continue
				}
			}
			if err != nil && err != uffd.ErrUnmapped {
				m.fail(err)
				return
			}
			break
		}
	}
	// Who freed pages just before waits until that was read.
	for quiet := 0; quiet < 20; quiet++ {
		if _, _, err := m.next(); err != nil {
			break
		}
		time.Sleep(time.Millisecond)
	}
	m.end(nil)
}
