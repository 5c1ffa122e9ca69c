package restore

import (
	"context"
	"io"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/arcboxlabs/arcstore/chunker"
	"github.com/arcboxlabs/arcstore/manifest"
)

// Source gets chunks: it calls deliver, from several goroutines, with the
// bytes of ids[i], ids[i+1], … as they lie together, all verified. data is valid until deliver returns.
type Source interface {
	Fetch(ctx context.Context, ids []chunker.ID, deliver func(i int, data []byte) error) error
	// Salvage is Fetch that goes on past chunks that cannot be had: it calls lost with their indexes, from one goroutine.
	Salvage(ctx context.Context, ids []chunker.ID, deliver func(i int, data []byte) error, lost func(i int, why error)) error
}

// Table is a stream's page table.
type Table interface {
	Size() int64 // bytes
	Len() int64  // chunks
	Lookup(first int64, ids []chunker.ID) error
	// Salvage is Lookup that returns what cannot be read as gaps.
	Salvage(first int64, ids []chunker.ID) ([]manifest.Gap, error)
}

const (
	// windowBytes is how much data is fetched and then written at once. File
	// systems take one write of a megabyte in a fifth of the time of 256 writes of a page.
	windowBytes = 16 << 20
	// windows is how many windows there are in memory.
	windows = 4
	// writeBytes bounds a single write.
	writeBytes = 4 << 20
	// tableStep is how many entries are looked up at once.
	tableStep = 4096
)

// Options are the choices of a stream's restore.
type Options struct {
	ChunkSize int
	// Zeros writes holes too; without it the destination must read as zeros already.
	Zeros bool
	// Lost, if not nil, is told what cannot be had, from one goroutine at a time; it is left out, as a hole is.
	// Otherwise that is an error.
	Lost func(Range)
	// Progress is told how many more bytes of the stream are done, from one goroutine at a time.
	Progress func(n int64)
}

// Range is bytes of a stream that cannot be had.
type Range struct {
	Offset, Length int64 // bytes
	Why            error
}

// Stream writes a stream to dst, data and, with opts.Zeros, holes, in order
// but from another goroutine. It returns how many bytes of data it wrote.
func Stream(ctx context.Context, t Table, src Source, dst io.WriterAt, opts Options) (int64, error) {
	if lost := opts.Lost; lost != nil {
		var mu sync.Mutex
		opts.Lost = func(r Range) {
			mu.Lock()
			defer mu.Unlock()
			lost(r)
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	// Some windows are fetched while the one before them is written.
	inOrder := make(chan *window, windows)
	free := make(chan *window, windows)
	for range windows {
		free <- &window{t: t, chunkSize: int64(opts.ChunkSize), lost: opts.Lost, fetched: make(chan struct{}, 1)}
	}
	g.Go(func() error {
		defer close(inOrder)
		for first := int64(0); first < t.Len(); {
			var w *window
			select {
			case w = <-free:
			case <-ctx.Done():
				return ctx.Err()
			}
			if err := w.plan(first); err != nil {
				return err
			}
			first = w.end
			g.Go(func() error {
				err := w.fetch(ctx, src)
				w.fetched <- struct{}{}
				return err
			})
			inOrder <- w // does not block: there are no more windows
		}
		return nil
	})
	written := int64(0)
	g.Go(func() error {
		for w := range inOrder {
			<-w.fetched
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := w.write(dst, opts.Zeros); err != nil {
				return err
			}
			written += w.bytes
			if opts.Progress != nil {
				opts.Progress(min(w.end*w.chunkSize, t.Size()) - w.first*w.chunkSize)
			}
			free <- w
		}
		return nil
	})
	err := g.Wait()
	return written, err
}

// window is a part of a stream that is fetched at once.
type window struct {
	t          Table
	chunkSize  int64
	lost       func(Range) // nil where that is an error
	first, end int64       // chunks

	entries []chunker.ID
	ids     []chunker.ID // that are not holes
	at      []int64      // their indexes in the stream
	bytes   int64        // of these chunks
	buf     []byte       // their bytes, back to back
	fetched chan struct{}
}

// fetch fills the window as it was planned.
func (w *window) fetch(ctx context.Context, src Source) error {
	if int64(cap(w.buf)) < w.bytes {
		w.buf = make([]byte, max(w.bytes, min(windowBytes, w.t.Size())))
	}
	w.buf = w.buf[:w.bytes]
	deliver := func(i int, data []byte) error {
		copy(w.buf[int64(i)*w.chunkSize:], data) // only the stream's last chunk may be short
		return nil
	}
	if w.lost == nil {
		return src.Fetch(ctx, w.ids, deliver)
	}
	var missing []int
	err := src.Salvage(ctx, w.ids, deliver, func(i int, why error) {
		missing = append(missing, i)
		w.lose(w.at[i], 1, why)
	})
	w.leaveOut(missing)
	return err
}

// lose tells of chunks of the stream that cannot be had.
func (w *window) lose(chunk, count int64, why error) {
	off := chunk * w.chunkSize
	w.lost(Range{off, min(count*w.chunkSize, w.t.Size()-off), why})
}

// leaveOut makes holes of chunks whose bytes are not there.
func (w *window) leaveOut(missing []int) {
	if len(missing) == 0 {
		return
	}
	slices.Sort(missing)
	kept := 0
	to := int64(0)
	for i, chunk := range w.at {
		n := w.length(chunk)
		if len(missing) > 0 && missing[0] == i {
			missing = missing[1:]
			w.bytes -= n
			continue
		}
		from := int64(i) * w.chunkSize
		copy(w.buf[to:], w.buf[from:from+n])
		w.at[kept] = chunk
		kept++
		to += n
	}
	w.at = w.at[:kept]
}

// plan looks up entries from first on, until there is enough data.
func (w *window) plan(first int64) error {
	w.first, w.end = first, first
	w.ids, w.at, w.bytes = w.ids[:0], w.at[:0], 0
	if w.entries == nil {
		w.entries = make([]chunker.ID, tableStep)
	}
	// Steps keep to their grid, for that is how page tables are cut; with
	// large chunks, a window is less than a step.
	step := min(tableStep, max(1, windowBytes/w.chunkSize))
	for w.end < w.t.Len() && (w.end == first || w.bytes+step*w.chunkSize <= windowBytes) {
		part := w.entries[:min(w.t.Len()-w.end, step-w.end%step)]
		if err := w.look(part); err != nil {
			return err
		}
		for i := range part {
			if !part[i].IsHole() {
				w.ids = append(w.ids, part[i])
				w.at = append(w.at, w.end+int64(i))
				w.bytes += w.length(w.end + int64(i))
			}
		}
		w.end += int64(len(part))
	}
	return nil
}

// look looks up the entries that follow the window.
func (w *window) look(part []chunker.ID) error {
	if w.lost == nil {
		return w.t.Lookup(w.end, part)
	}
	gaps, err := w.t.Salvage(w.end, part)
	for _, g := range gaps {
		w.lose(g.First, g.Count, g.Why)
	}
	return err
}

// write writes the window's data, in pieces as large as they lie together.
func (w *window) write(dst io.WriterAt, zeros bool) error {
	for i := 0; i < len(w.at); {
		end, size := i+1, w.length(w.at[i])
		for end < len(w.at) && w.at[end] == w.at[end-1]+1 && size < writeBytes {
			size += w.length(w.at[end])
			end++
		}
		from := int64(i) * w.chunkSize
		if _, err := dst.WriteAt(w.buf[from:from+size], w.at[i]*w.chunkSize); err != nil {
			return err
		}
		i = end
	}
	if zeros {
		return w.zero(dst)
	}
	return nil
}

// length returns the length of a chunk of the stream, in bytes.
func (w *window) length(chunk int64) int64 {
	return min(w.chunkSize, w.t.Size()-chunk*w.chunkSize)
}

var zeros [256 << 10]byte

// zero writes the window's holes.
func (w *window) zero(dst io.WriterAt) error {
	at := w.first * w.chunkSize
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
	return fill(min(w.end*w.chunkSize, w.t.Size()))
}
