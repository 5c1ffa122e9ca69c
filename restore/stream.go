package restore

import (
	"context"
	"io"

	"github.com/arcboxlabs/arcstore/chunker"
)

// Source gets chunks: it calls deliver, from several goroutines, with the
// bytes of ids[i], ids[i+1], … as they lie together, all verified. data is valid until deliver returns.
type Source interface {
	Fetch(ctx context.Context, ids []chunker.ID, deliver func(i int, data []byte) error) error
}

// Table is a stream's page table.
type Table interface {
	Size() int64 // bytes
	Len() int64  // chunks
	Lookup(first int64, ids []chunker.ID) error
}

const (
	// fileWindow is how many chunks are fetched at once when the order does
	// not matter: the more, the fewer frames are read twice.
	fileWindow = 256 << 10
	// streamWindow is how many bytes are gathered when it does.
	streamWindow = 8 << 20
	// tableStep is how many entries are looked up at once.
	tableStep = 4096
)

// Options are the choices of a stream's restore.
type Options struct {
	ChunkSize int
	// Zeros writes holes too; without it the destination must read as zeros already.
	Zeros bool
	// Progress is told how many more bytes of the stream are done, from one goroutine at a time.
	Progress func(n int64)
}

// Stream writes a stream to dst, in any order and from several goroutines. It
// returns how many bytes of data it wrote, holes not counted.
func Stream(ctx context.Context, t Table, src Source, dst io.WriterAt, opts Options) (int64, error) {
	w := window{t: t, chunkSize: int64(opts.ChunkSize)}
	written := int64(0)
	for first := int64(0); first < t.Len(); {
		next, err := w.plan(first, t.Len(), fileWindow)
		if err != nil {
			return written, err
		}
		err = src.Fetch(ctx, w.ids, func(i int, data []byte) error {
			for len(data) > 0 {
				n := w.together(i, int64(len(data)))
				if _, err := dst.WriteAt(data[:n], w.at[i]*w.chunkSize); err != nil {
					return err
				}
				data = data[n:]
				i += int((n + w.chunkSize - 1) / w.chunkSize)
			}
			return nil
		})
		if err != nil {
			return written, err
		}
		if opts.Zeros {
			if err := w.zero(dst, first, next); err != nil {
				return written, err
			}
		}
		written += w.bytes
		if opts.Progress != nil {
			opts.Progress(min(next*w.chunkSize, t.Size()) - first*w.chunkSize)
		}
		first = next
	}
	return written, ctx.Err()
}

// window is a part of a stream that is fetched at once.
type window struct {
	t         Table
	chunkSize int64
	entries   []chunker.ID
	ids       []chunker.ID // that are not holes
	at        []int64      // their indexes in the stream
	bytes     int64        // of these chunks
}

// plan fills the window with at most limit chunks that are not holes, from
// first on, and returns the index after the last one considered.
func (w *window) plan(first, end int64, limit int) (int64, error) {
	w.ids, w.at, w.bytes = w.ids[:0], w.at[:0], 0
	if w.entries == nil {
		w.entries = make([]chunker.ID, tableStep)
	}
	for first < end && len(w.ids)+tableStep <= max(limit, tableStep) {
		// Steps keep to their grid: that is how page tables are cut.
		part := w.entries[:min(end-first, tableStep-first%tableStep)]
		if err := w.t.Lookup(first, part); err != nil {
			return first, err
		}
		for i := range part {
			if !part[i].IsHole() {
				w.ids = append(w.ids, part[i])
				w.at = append(w.at, first+int64(i))
				w.bytes += w.length(first + int64(i))
			}
		}
		first += int64(len(part))
	}
	return first, nil
}

// length returns the length of a chunk of the stream, in bytes.
func (w *window) length(chunk int64) int64 {
	return min(w.chunkSize, w.t.Size()-chunk*w.chunkSize)
}

// together returns how many of the n bytes that begin with chunk i of the
// window lie together in the stream too.
func (w *window) together(i int, n int64) int64 {
	size := w.length(w.at[i])
	for size < n && w.at[i+1] == w.at[i]+1 {
		i++
		size += w.length(w.at[i])
	}
	return min(size, n)
}

var zeros [256 << 10]byte

// zero writes the holes between first and end.
func (w *window) zero(dst io.WriterAt, first, end int64) error {
	at := first * w.chunkSize
	fill := func(to int64) error {
		for at < to {
			n := min(to-at, int64(len(zeros)))
			if _, err := dst.WriteAt(zeros[:n], at); err != nil {
				return err
			}
			at += n
		}
		return nil
	}
	for _, chunk := range w.at {
		if err := fill(chunk * w.chunkSize); err != nil {
			return err
		}
		at = chunk*w.chunkSize + w.length(chunk)
	}
	return fill(min(end*w.chunkSize, w.t.Size()))
}

// Sequential writes a stream to dst in order, holes as zeros.
func Sequential(ctx context.Context, t Table, src Source, dst io.Writer, opts Options) (int64, error) {
	size := int64(opts.ChunkSize)
	r := NewReader(t, src, opts.ChunkSize)
	buf := make([]byte, max(streamWindow, size))
	written := int64(0)
	for off := int64(0); off < t.Size(); {
		part := buf[:min(int64(len(buf)), t.Size()-off)]
		n, err := r.read(ctx, part, off)
		written += n
		if err != nil {
			return written, err
		}
		if _, err := dst.Write(part); err != nil {
			return written, err
		}
		if opts.Progress != nil {
			opts.Progress(int64(len(part)))
		}
		off += int64(len(part))
	}
	return written, ctx.Err()
}
