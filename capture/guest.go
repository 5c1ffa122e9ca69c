package capture

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/arcboxlabs/arcstore/chunker"
	"github.com/arcboxlabs/arcstore/manifest"
)

// Guest is a running VM, as the driver of its VMM gives it. One goroutine uses it.
type Guest interface {
	// Memory is the guest's memory. It may be read while the guest runs, and then changes meanwhile; nil where only its VMM reads it,
	// and State has it copied.
	Memory() chunker.Source
	// Pause stops the guest: its memory changes no more. One that is not running stays as it is.
	Pause(ctx context.Context) error
	// Changed returns a bitmap of the pages that the guest, when it was paused, may have written to since the snapshot that parent is
	// was taken; nil where that is not known.
	Changed(ctx context.Context, parent *manifest.Table) (chunker.Bitmap, error)
	// State returns what the paused guest consists of besides its memory. It may use files in dir, which is empty.
	// It stays as it is when the guest goes on, with the memory, where that is in it: then the guest is resumed before anything is
	// stored.
	State(ctx context.Context, dir string) (*VM, error)
	// Resume lets a guest run that Pause has stopped. It may be called at any time, any number of times.
	Resume(ctx context.Context) error
}

// Successor is a guest whose VMM can copy nothing but what changed since it copied the last time.
type Successor interface {
	Guest
	// Succeed is told, before Pause, of the snapshot that the next one is built on; dir is as for State. The memory that State
	// copies then need only have the pages that Changed says, if it says any.
	Succeed(ctx context.Context, dir string, p Predecessor) error
	// Succeeded adds to what State returned, where that has the memory, what the next Succeed has to know. The guest was resumed.
	Succeeded(vm *VM)
}

// Predecessor is the snapshot that another one is built on.
type Predecessor struct {
	// Not says why a copy must have all pages; "" if it need not.
	Not string
	// Memory is the size of the memory, in bytes.
	Memory int64
	// Read returns a small stream; nil where there is none.
	Read func(ctx context.Context, stream string) ([]byte, error)
}

// predecessor is the parent, if there may be a copy of nothing but what changed since.
func (opts *Options) predecessor() Predecessor {
	switch {
	case opts.Parent == nil:
		return Predecessor{Not: "there is no parent"}
	case opts.ChunkSize != chunker.PageSize:
		return Predecessor{Not: "the store's chunks are not pages"} // what is beside a page that changed is needed, too
	case opts.Damaged != nil || opts.ReadParent == nil:
		return Predecessor{Not: "the store has damage, which pages that did not change may mend"}
	}
	memory, err := opts.Parent.Stream(manifest.MemoryStream)
	if err != nil {
		return Predecessor{Not: "the parent has no memory"}
	}
	return Predecessor{Memory: memory.Size(), Read: opts.ReadParent}
}

// Resume lets the guest of a VMM, VMMQEMU or VMMFirecracker, run that listens on a socket, if it is paused. It is for who finds out that the process which paused it is no more.
func Resume(ctx context.Context, vmm, socket string) error {
	switch vmm {
	case VMMQEMU:
		return ResumeQEMU(ctx, socket)
	case VMMFirecracker:
		return ResumeFirecracker(ctx, socket)
	}
	return fmt.Errorf("capture: %w: no VMM is called %q", ErrInvalid, vmm)
}

// resumeTimeout is how long a guest may take to be resumed when the operation that paused it was cancelled.
const resumeTimeout = 30 * time.Second

// CaptureGuest pauses a guest, captures it, and resumes it, whatever goes wrong: once all of it was read, or as soon as it was copied, by its VMM or, of what
// changed since its memory was read ahead, here. It returns for how long the guest was paused.
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
	successor, ok := g.(Successor)
	if ok {
		if err := successor.Succeed(ctx, dir, opts.predecessor()); err != nil {
			return stats, 0, err
		}
		start = time.Now()
	}
	if err := g.Pause(ctx); err != nil {
		return stats, 0, err
	}
	compared := opts.Ahead.compareBeside(ctx) // while the VMM writes the rest of the state
	vm, err := g.State(ctx, dir)
	dirty, derr := compared()
	if err := errors.Join(err, derr); err != nil {
		return stats, 0, err
	}
	copied := vm.Memory != nil
	if copied {
		if err := resume(); err != nil {
			return stats, 0, err
		}
		if successor != nil {
			successor.Succeeded(vm)
		}
	} else {
		vm.Memory = g.Memory()
	}
	if opts.Parent != nil && opts.Dirty == nil {
		if opts.Dirty, err = g.Changed(ctx, opts.Parent); err != nil {
			return stats, 0, err
		}
		if copied && opts.Dirty != nil {
			opts.CleanSample = -1 // the copy need not have the pages that are clean
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
