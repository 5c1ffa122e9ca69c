package chunker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"sync"
)

const (
	// MinChunkSize and MaxChunkSize bound the chunk size, in bytes.
	MinChunkSize = 4 << 10
	MaxChunkSize = 2 << 20

	// segmentSize is how much a worker reads at once, in bytes: small enough to be
	// still in the second-level cache when it is hashed.
	segmentSize = 256 << 10
)

// ErrShort is wrapped by the error for a source that ended before its size:
// it shrank while it was read.
var ErrShort = errors.New("source ended early")

// CheckChunkSize returns an error unless n is a power of two from MinChunkSize to MaxChunkSize.
func CheckChunkSize(n int) error {
	if n < MinChunkSize || n > MaxChunkSize || n&(n-1) != 0 {
		return fmt.Errorf("chunker: chunk size %d is not a power of two from %d to %d", n, MinChunkSize, MaxChunkSize)
	}
	return nil
}

// Options are the choices of a split.
type Options struct {
	// ChunkSize in bytes; required.
	ChunkSize int
	// Dirty, if not nil, says which pages to read; the others come as Clean batches.
	Dirty Bitmap
	// Hasher names the chunks; nil is that of a store without encryption.
	Hasher *Hasher
	// Workers is the number of goroutines that read and hash; 0 means one for each core.
	Workers int
}

// A Batch is a run of consecutive chunks of a source.
type Batch struct {
	Kind  Kind
	First int64 // index of the first chunk
	Count int64
	// IDs and Data are set for Kind Data alone: an ID for each chunk, and the
	// chunks' bytes back to back; only the source's last chunk may be short.
	IDs  []ID
	Data []byte
}

// Chunk returns the bytes of the i-th chunk of a batch of Data.
func (b *Batch) Chunk(i, chunkSize int) []byte {
	return b.Data[i*chunkSize : min((i+1)*chunkSize, len(b.Data))]
}

// segment is consecutive runs on their way through the workers: small ones
// travel together, since a dirty bitmap makes thousands of a single chunk.
type segment struct {
	runs []run
	buf  []byte // of the data runs, back to back
	ids  []ID
	err  error
	done chan struct{}
}

// segments keeps buffers from one split to the next: memory touched for the
// first time costs more than hashing it.
var segments = sync.Pool{New: func() any {
	return &segment{buf: make([]byte, 0, segmentSize), done: make(chan struct{}, 1)}
}}

// segmentRuns bounds the runs in a segment.
const segmentRuns = 256

// Split reads src on all cores and calls emit with its batches, in order and
// from the calling goroutine. A batch and its slices are valid until emit
// returns. Memory is bounded by the number of workers. It ends at the first error,
// of src, of emit or of ctx.
func Split(ctx context.Context, src Source, opts Options, emit func(*Batch) error) error {
	if err := CheckChunkSize(opts.ChunkSize); err != nil {
		return err
	}
	if opts.Dirty != nil {
		if err := opts.Dirty.Check(src.Size()); err != nil {
			return fmt.Errorf("chunker: %w", err)
		}
	}
	workers := opts.Workers
	if workers <= 0 {
		workers = runtime.GOMAXPROCS(0)
	}
	ctx, cancel := context.WithCancel(ctx)
	// Every segment goes to the workers and, in the same order, to the loop
	// below, which waits for it to be done. The free list bounds how many there are.
	ahead := 4 * workers
	free := make(chan *segment, ahead)
	for range ahead {
		s := segments.Get().(*segment)
		free <- s
		defer s.release()
	}
	var group sync.WaitGroup
	defer group.Wait()
	defer cancel()
	work := make(chan *segment, ahead)
	inOrder := make(chan *segment, ahead)

	group.Go(func() {
		defer close(work)
		defer close(inOrder)
		dispatch(ctx, newPlanner(src, opts.ChunkSize, opts.Dirty), free, work, inOrder)
	})
	for range workers {
		group.Go(func() {
			for s := range work {
				s.err = s.fill(src, opts.ChunkSize, opts.Hasher)
				s.done <- struct{}{}
			}
		})
	}
	for s := range inOrder {
		<-s.done
		if s.err != nil {
			return s.err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := s.emit(opts.ChunkSize, emit); err != nil {
			return err
		}
		free <- s
	}
	return ctx.Err()
}

// dispatch hands out the planner's runs as segments until the end, an error or the context's.
func dispatch(ctx context.Context, plan *planner, free <-chan *segment, work, inOrder chan<- *segment) {
	for {
		var s *segment
		select {
		case s = <-free:
		case <-ctx.Done():
			return
		}
		data := int64(0)
		s.runs, s.err = s.runs[:0], nil
		for data < segmentSize && len(s.runs) < segmentRuns {
			r, ok, err := plan.next(max(1, (segmentSize-data)/plan.chunkSize))
			s.err = err
			if !ok {
				break
			}
			s.runs = append(s.runs, r)
			if r.kind == Data {
				data += (r.end - r.first) * plan.chunkSize
			}
		}
		if len(s.runs) == 0 && s.err == nil {
			return
		}
		// Neither send blocks: there are no more segments than places. After
		// the first, s is the worker's.
		failed := s.err != nil
		if data > 0 && !failed {
			work <- s
		} else {
			s.done <- struct{}{}
		}
		inOrder <- s
		if failed {
			return
		}
	}
}

// release gives a segment back, when no worker has it anymore.
func (s *segment) release() {
	select {
	case <-s.done: // a split that failed did not wait for it
	default:
	}
	segments.Put(s)
}

// fill reads and hashes the data of a segment.
func (s *segment) fill(src Source, chunkSize int, hasher *Hasher) error {
	s.buf, s.ids = s.buf[:0], s.ids[:0]
	for _, r := range s.runs {
		if r.kind != Data {
			continue
		}
		off := r.first * int64(chunkSize)
		n := int(min((r.end-r.first)*int64(chunkSize), src.Size()-off))
		at := len(s.buf)
		s.buf = slices.Grow(s.buf, n)[:at+n]
		data := s.buf[at:]
		if err := ReadFull(src, data, off); err != nil {
			return err
		}
		for len(data) > 0 {
			chunk := data[:min(chunkSize, len(data))]
			data = data[len(chunk):]
			if IsZero(chunk) {
				s.ids = append(s.ids, ID{})
			} else {
				s.ids = append(s.ids, hasher.Sum(chunk))
			}
		}
	}
	return nil
}

// emit hands over the runs of a segment as batches.
func (s *segment) emit(chunkSize int, emit func(*Batch) error) error {
	buf, ids := s.buf, s.ids
	var b Batch // one for all: there may be thousands
	for _, r := range s.runs {
		b = Batch{Kind: r.kind, First: r.first, Count: r.end - r.first}
		if r.kind == Data {
			n := min(int(b.Count)*chunkSize, len(buf)) // only the source's last chunk may be short
			b.Data, buf = buf[:n], buf[n:]
			b.IDs, ids = ids[:b.Count], ids[b.Count:]
		}
		if err := emit(&b); err != nil {
			return err
		}
	}
	return nil
}

// ReadFull reads len(p) bytes of src at off. A source that ends sooner is an
// error that wraps ErrShort.
func ReadFull(src Source, p []byte, off int64) error {
	n, err := src.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("chunker: %w: at byte %d of %d; it must not shrink while it is read", ErrShort, off+int64(n), src.Size())
	}
	return fmt.Errorf("chunker: read at byte %d: %w", off+int64(n), err)
}
