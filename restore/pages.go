package restore

import (
	"context"
	"fmt"
	"io"

	"github.com/arcboxlabs/arcstore/chunker"
)

// Frame is chunks that were stored together, decompressed.
type Frame interface {
	Len() int // chunks
	ID(i int) *chunker.ID
	// Chunks returns the bytes of chunks i to before end, verified and valid until Release.
	Chunks(i, end int) ([]byte, error)
	Release()
}

// Frames gets chunks along with those that were stored with them, and keeps them for a while: who asks for one is soon to
// ask for another.
type Frames interface {
	Source
	// Frame returns the frame that holds a chunk, and which of the frame's chunks it is. at says where in its stream the
	// chunk is wanted: that helps to find it.
	Frame(ctx context.Context, id *chunker.ID, at int64) (Frame, int, error)
	// Expect says that a chunk of the stream is soon to be asked for, whose ID is not known yet.
	Expect(ctx context.Context, at int64)
	// Warm gets many at once, so that Frame has them soon; at says where each of them is wanted.
	Warm(ctx context.Context, ids []chunker.ID, at []int64) error
}

// Pages reads a stream in whatever order it is asked for. It is safe for concurrent use.
type Pages struct {
	t         Table
	src       Frames
	chunkSize int64
}

// NewPages returns the pages of the stream that t describes.
func NewPages(t Table, src Frames, chunkSize int) *Pages {
	return &Pages{t: t, src: src, chunkSize: int64(chunkSize)}
}

// Size returns the stream's length in bytes.
func (p *Pages) Size() int64 { return p.t.Size() }

// ReadAt implements io.ReaderAt.
func (p *Pages) ReadAt(b []byte, off int64) (int, error) {
	return p.ReadContext(context.Background(), b, off)
}

// ReadContext is ReadAt that stops with ctx.
func (p *Pages) ReadContext(ctx context.Context, b []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("restore: negative offset %d", off)
	}
	if off >= p.t.Size() {
		return 0, io.EOF
	}
	n := min(int64(len(b)), p.t.Size()-off)
	var stack [64]chunker.ID
	ids := stack[:]
	for at := int64(0); at < n; {
		chunk := (off + at) / p.chunkSize
		count := min((off+n+p.chunkSize-1)/p.chunkSize-chunk, int64(len(ids)))
		p.src.Expect(ctx, chunk)
		if err := p.t.Lookup(chunk, ids[:count]); err != nil {
			return int(at), err
		}
		end := min(n, (chunk+count)*p.chunkSize-off)
		if err := p.read(ctx, b[at:end], off+at-chunk*p.chunkSize, chunk, ids[:count]); err != nil {
			return int(at), err
		}
		at = end
	}
	if n < int64(len(b)) {
		return int(n), io.EOF
	}
	return int(n), nil
}

// read fills b with the bytes from skip on of chunks that lie together, whose IDs these are; first is where they are.
func (p *Pages) read(ctx context.Context, b []byte, skip, first int64, ids []chunker.ID) error {
	for i := 0; i < len(ids); {
		if ids[i].IsHole() {
			n := min(p.chunkSize-skip, int64(len(b)))
			clear(b[:n])
			b, skip = b[n:], 0
			i++
			continue
		}
		count, err := p.run(ctx, ids[i:], first+int64(i), func(data []byte) {
			n := copy(b, data[skip:])
			b, skip = b[n:], 0
		})
		if err != nil {
			return err
		}
		i += count
	}
	return nil
}

// run hands over the first of ids and those that follow it in its frame, and returns how many these are.
func (p *Pages) run(ctx context.Context, ids []chunker.ID, first int64, use func([]byte)) (int, error) {
	f, at, err := p.src.Frame(ctx, &ids[0], first)
	if err != nil {
		return 0, err
	}
	defer f.Release()
	end := at + 1
	for end < f.Len() && end-at < len(ids) && *f.ID(end) == ids[end-at] {
		end++
	}
	if data, err := f.Chunks(at, end); err == nil {
		use(data)
		return end - at, nil
	}
	// Of what is damaged here, another copy may be sound.
	data, err := p.elsewhere(ctx, ids[0])
	if err != nil {
		return 0, err
	}
	use(data)
	return 1, nil
}

// elsewhere returns a chunk of which one copy is damaged.
func (p *Pages) elsewhere(ctx context.Context, id chunker.ID) ([]byte, error) {
	var data []byte
	err := p.src.Fetch(ctx, []chunker.ID{id}, func(_ int, b []byte) error {
		data = append(data, b...)
		return nil
	})
	return data, err
}

// Next returns the first offset, from offset on, where the stream has data, or a hole; its size where there is none. It goes by chunks.
func (p *Pages) Next(ctx context.Context, offset int64, data bool) (int64, error) {
	ids := make([]chunker.ID, tableStep)
	for chunk := offset / p.chunkSize; chunk < p.t.Len(); {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		part := ids[:min(tableStep-chunk%tableStep, p.t.Len()-chunk)]
		if err := p.t.Lookup(chunk, part); err != nil {
			return 0, err
		}
		for i := range part {
			if part[i].IsHole() != data {
				return max(offset, (chunk+int64(i))*p.chunkSize), nil
			}
		}
		chunk += int64(len(part))
	}
	return p.t.Size(), nil
}
