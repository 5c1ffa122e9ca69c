package chunker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"
)

const (
	// MinChunkSize and MaxChunkSize bound the chunk size, in bytes.
	MinChunkSize = 4 << 10
	MaxChunkSize = 2 << 20

	// segmentSize is how much is read at once, in bytes: small enough to be
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

// segment is a batch on its way through the workers.
type segment struct {
	Batch
	buf  []byte
	err  error
	done chan struct{}
}

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
	var group sync.WaitGroup
	defer group.Wait()
	defer cancel()

	// Every segment goes to the workers and, in the same order, to the loop
	// below, which waits for it to be done. The free list bounds how many there are.
	ahead := 4 * workers
	free := make(chan *segment, ahead)
	for range ahead {
		free <- &segment{done: make(chan struct{}, 1)}
	}
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
				s.err = s.fill(src, opts.ChunkSize)
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
		if err := emit(&s.Batch); err != nil {
			return err
		}
		free <- s
	}
	return ctx.Err()
}

// dispatch hands out the planner's runs as segments until the end, an error or the context's.
func dispatch(ctx context.Context, plan *planner, free <-chan *segment, work, inOrder chan<- *segment) {
	limit := max(1, int64(segmentSize)/plan.chunkSize)
	for {
		var s *segment
		select {
		case s = <-free:
		case <-ctx.Done():
			return
		}
		r, ok, err := plan.next(limit)
		if !ok && err == nil {
			return
		}
		s.Batch = Batch{Kind: r.kind, First: r.first, Count: r.end - r.first}
		s.err = err
		// Neither send blocks: there are no more segments than places.
		if err == nil && r.kind == Data {
			work <- s
		} else {
			s.done <- struct{}{}
		}
		inOrder <- s
		if err != nil {
			return
		}
	}
}

// fill reads and hashes a segment.
func (s *segment) fill(src Source, chunkSize int) error {
	off := s.First * int64(chunkSize)
	n := int(min(s.Count*int64(chunkSize), src.Size()-off))
	if cap(s.buf) < n {
		s.buf = make([]byte, max(n, segmentSize))
	}
	s.Data = s.buf[:n]
	if err := ReadFull(src, s.Data, off); err != nil {
		return err
	}
	s.IDs = s.IDs[:0]
	for i := range int(s.Count) {
		chunk := s.Chunk(i, chunkSize)
		if IsZero(chunk) {
			s.IDs = append(s.IDs, ID{})
		} else {
			s.IDs = append(s.IDs, Sum(chunk))
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
