package restore

import (
	"context"
	"fmt"
	"io"

	"github.com/arcboxlabs/arcstore/chunker"
)

// Reader reads parts of a stream. It is safe for concurrent use. It keeps
// nothing between reads, so large ones are cheaper than many small ones.
type Reader struct {
	t         Table
	src       Source
	chunkSize int64
	lost      func(Range) // told what cannot be had; nil where that is an error
}

// NewReader returns a reader of the stream that t describes.
func NewReader(t Table, src Source, chunkSize int) *Reader {
	return &Reader{t: t, src: src, chunkSize: int64(chunkSize)}
}

// Size returns the stream's length in bytes.
func (r *Reader) Size() int64 { return r.t.Size() }

// ReadAt implements io.ReaderAt.
func (r *Reader) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("restore: negative offset %d", off)
	}
	if off >= r.t.Size() {
		return 0, io.EOF
	}
	n := min(int64(len(p)), r.t.Size()-off)
	if _, err := r.read(context.Background(), p[:n], off); err != nil {
		return 0, err
	}
	if n < int64(len(p)) {
		return int(n), io.EOF
	}
	return int(n), nil
}

// read fills p, which lies within the stream, and returns how many of its
// bytes are data.
func (r *Reader) read(ctx context.Context, p []byte, off int64) (int64, error) {
	if len(p) == 0 {
		return 0, nil
	}
	first := off / r.chunkSize
	entries := make([]chunker.ID, (off+int64(len(p))+r.chunkSize-1)/r.chunkSize-first)
	if err := r.look(first, entries); err != nil {
		return 0, err
	}
	ids := make([]chunker.ID, 0, len(entries))
	at := make([]int64, 0, len(entries)) // where each chunk begins, relative to p
	for i := range entries {
		if !entries[i].IsHole() {
			ids = append(ids, entries[i])
			at = append(at, (first+int64(i))*r.chunkSize-off)
		}
	}
	clear(p)
	size := min(int64(len(ids))*r.chunkSize, int64(len(p)))
	deliver := func(i int, b []byte) error {
		for ; len(b) > 0; i++ {
			n := min(r.chunkSize, int64(len(b)))
			// The first and the last chunk may reach beyond p.
			skip := max(0, -at[i])
			copy(p[at[i]+skip:], b[min(skip, n):n])
			b = b[n:]
		}
		return nil
	}
	if r.lost == nil {
		return size, r.src.Fetch(ctx, ids, deliver)
	}
	err := r.src.Salvage(ctx, ids, deliver, func(i int, why error) {
		size -= r.lose(off+at[i], 1, why)
	})
	return max(0, size), err
}

// look looks up entries from first on.
func (r *Reader) look(first int64, entries []chunker.ID) error {
	if r.lost == nil {
		return r.t.Lookup(first, entries)
	}
	gaps, err := r.t.Salvage(first, entries)
	for _, g := range gaps {
		r.lose(g.First*r.chunkSize, g.Count, g.Why)
	}
	return err
}

// lose tells of chunks that cannot be had, and returns their length in bytes.
func (r *Reader) lose(off, count int64, why error) int64 {
	n := min(count*r.chunkSize, r.t.Size()-off)
	r.lost(Range{off, n, why})
	return n
}
