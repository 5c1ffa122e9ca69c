package chunker

// Kind says what a Batch is.
type Kind uint8

const (
	Data  Kind = iota // was read and hashed; single chunks may still be holes
	Hole              // the source says that it holds nothing there
	Clean             // the dirty bitmap says that it is as in the parent
)

// seekChunks is how many dirty chunks in a row are worth asking for holes
// among them: for fewer, the two seeks cost as much as reading them.
const seekChunks = 16

// run is a range of chunks that are treated alike.
type run struct {
	kind       Kind
	first, end int64 // chunk indexes
}

// planner cuts a source into runs, in order, without reading it.
type planner struct {
	src       Source
	holes     HoleFinder // nil where src cannot tell
	dirty     Bitmap     // nil: everything may have changed
	chunkSize int64
	chunks    int64
	pages     int64

	pos                int64 // next chunk
	dataStart, dataEnd int64 // the last range from holes, in chunks, widened to whole ones
}

func newPlanner(src Source, chunkSize int, dirty Bitmap) *planner {
	p := &planner{src: src, dirty: dirty, chunkSize: int64(chunkSize)}
	p.holes, _ = src.(HoleFinder)
	p.chunks = ceilDiv(src.Size(), p.chunkSize)
	p.pages = ceilDiv(src.Size(), PageSize)
	return p
}

// next returns the following run, at most limit chunks long if it is to be read.
func (p *planner) next(limit int64) (r run, ok bool, err error) {
	if p.pos >= p.chunks {
		return run{}, false, nil
	}
	r = run{kind: Data, first: p.pos, end: p.chunks}
	if p.dirty != nil {
		pagesPerChunk := p.chunkSize / PageSize
		page := p.pos * pagesPerChunk
		if d := p.dirty.next(page, p.pages, true); d/pagesPerChunk > p.pos || d == p.pages {
			r.kind = Clean
			if d < p.pages {
				r.end = d / pagesPerChunk
			}
		} else {
			r.end = p.endOfDirty(pagesPerChunk)
		}
	}
	if r.kind == Data && p.holes != nil && (p.dirty == nil || r.end-r.first >= seekChunks) {
		if err := p.cutHoles(&r); err != nil {
			return run{}, false, err
		}
	}
	if r.kind == Data {
		r.end = min(r.end, r.first+limit)
	}
	p.pos = r.end
	return r, true, nil
}

// endOfDirty returns the first chunk after pos none of whose pages is dirty.
func (p *planner) endOfDirty(pagesPerChunk int64) int64 {
	for chunk := p.pos + 1; chunk < p.chunks; {
		page := chunk * pagesPerChunk
		if pagesPerChunk == 1 {
			return p.dirty.next(page, p.pages, false)
		}
		d := p.dirty.next(page, p.pages, true)
		if d == p.pages || d/pagesPerChunk > chunk {
			return chunk
		}
		chunk++
	}
	return p.chunks
}

// cutHoles shortens a run of data at the first border between data and hole.
func (p *planner) cutHoles(r *run) error {
	if r.first >= p.dataEnd {
		start, end, err := p.holes.NextData(r.first * p.chunkSize)
		if err != nil {
			return err
		}
		p.dataStart, p.dataEnd = start/p.chunkSize, ceilDiv(end, p.chunkSize)
		if start >= end {
			p.dataStart, p.dataEnd = p.chunks, p.chunks
		}
	}
	if r.first < p.dataStart {
		r.kind = Hole
		r.end = min(r.end, p.dataStart)
		return nil
	}
	r.end = min(r.end, p.dataEnd)
	return nil
}
