package capture

import (
	"context"
	"errors"
	"time"

	"github.com/arcboxlabs/arcstore/chunker"
	"github.com/arcboxlabs/arcstore/manifest"
)

// Guest is a running VM, as the driver of its VMM gives it. One goroutine uses it.
type Guest interface {
	// Memory is the guest's memory. It may be read while the guest runs, and then changes meanwhile.
	Memory() chunker.Source
	// Pause stops the guest: its memory changes no more. One that is not running stays as it is.
	Pause(ctx context.Context) error
	// Changed returns a bitmap of the pages that the paused guest may have written to since the snapshot that parent is
	// was taken; nil where that is not known.
	Changed(ctx context.Context, parent *manifest.Table) (chunker.Bitmap, error)
	// State returns what the paused guest consists of besides its memory. It may use files in dir, which is empty.
	// It stays as it is when the guest goes on.
	State(ctx context.Context, dir string) (*VM, error)
	// Resume lets a guest run that Pause has stopped. It may be called at any time, any number of times.
	Resume(ctx context.Context) error
}

// resumeTimeout is how long a guest may take to be resumed when the operation that paused it was cancelled.
const resumeTimeout = 30 * time.Second

// CaptureGuest pauses a guest, captures it, and resumes it once all of it was read or, of one whose memory was read ahead, what changed was copied, whatever goes wrong. It returns for how
// long the guest was paused.
func CaptureGuest(ctx context.Context, g Guest, dir string, sink Sink, b *manifest.Builder, opts Options) (stats Stats, paused time.Duration, err error) {
	start, pause := time.Now(), time.Duration(0)
	resume := func() error {
		rctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), resumeTimeout)
		defer cancel()
		err := g.Resume(rctx)
		if pause == 0 && err == nil {
			pause = time.Since(start)
		}
		return err
	}
	defer func() {
		err = errors.Join(err, resume())
		paused = pause
	}()
	if err := g.Pause(ctx); err != nil {
		return stats, 0, err
	}
	compared := opts.Ahead.compareBeside(ctx) // while the VMM writes the rest of the state
	vm, err := g.State(ctx, dir)
	dirty, derr := compared()
	if err := errors.Join(err, derr); err != nil {
		return stats, 0, err
	}
	vm.Memory = g.Memory()
	if opts.Parent != nil && opts.Dirty == nil {
		if opts.Dirty, err = g.Changed(ctx, opts.Parent); err != nil {
			return stats, 0, err
		}
		if opts.Dirty == nil && dirty != nil {
			opts.Dirty = dirty
			if copied := opts.Ahead.Copy(); copied != nil && opts.ChunkSize == chunker.PageSize && opts.Damaged == nil {
				// Nothing else of the memory is read, so the guest need not wait. Who compared all pages need not check samples of them.
				vm.Memory, opts.CleanSample = copied, -1
				if err := resume(); err != nil {
					return stats, 0, err
				}
			}
		}
	}
	stats, err = CaptureVM(ctx, vm, sink, b, opts)
	return stats, 0, err
}
