package restore

import (
	"context"
	"io"
)

// streamWindow is how many bytes Sequential gathers.
const streamWindow = 8 << 20

// Sequential writes a stream to dst in order, holes as zeros.
func Sequential(ctx context.Context, t Table, src Source, dst io.Writer, opts Options) (int64, error) {
	size := int64(opts.ChunkSize)
	r := NewReader(t, src, opts.ChunkSize)
	r.lost = opts.Lost
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
