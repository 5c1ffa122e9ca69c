package capture

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/arcboxlabs/arcstore/chunker"
	"github.com/arcboxlabs/arcstore/manifest"
)

// A VM is what CaptureVM reads. Its owner keeps the guest paused, or its
// memory otherwise unchanging, meanwhile.
type VM struct {
	// Memory is the guest's RAM, the stream "memory". Required.
	Memory chunker.Source
	// Machine describes regions, vCPUs and devices; nil where State holds all
	// there is to know, as a VMM's own state file does.
	Machine *manifest.Machine
	// MachineState are the opaque bytes that Machine refers to, by stream name.
	MachineState map[string]chunker.Source
	// State are further named streams, such as "vmstate" or "config.json".
	State map[string]chunker.Source
}

// ErrInvalid is wrapped by the errors for a VM that cannot be captured as it is described.
var ErrInvalid = errors.New("invalid machine")

// Options are the choices of a capture.
type Options struct {
	ChunkSize int
	// Parent is the page tables of the parent snapshot; nil for none.
	Parent *manifest.Table
	// Dirty says which pages of the memory may differ from Parent's; nil for all.
	Dirty chunker.Bitmap
	// CleanSample: one in so many pages that Dirty calls clean is compared
	// with the parent's all the same; 0 means DefaultCleanSample, negative none.
	CleanSample int
	// Damaged is as StreamOptions.Damaged.
	Damaged func(id chunker.ID) bool
	// Progress is told the bytes done, of the sum of all streams.
	Progress func(done, total int64)
}

// Stats says what a capture saw, in bytes.
type Stats struct {
	Size int64 // of all streams
	StreamStats
}

// CaptureVM captures every stream of vm: chunks go to sink, page tables to b,
// in the order of the streams' names with the memory first.
func CaptureVM(ctx context.Context, vm *VM, sink Sink, b *manifest.Builder, opts Options) (Stats, error) {
	var stats Stats
	streams, err := vm.streams()
	if err != nil {
		return stats, fmt.Errorf("capture: %w", err)
	}
	for _, s := range streams {
		stats.Size += s.src.Size()
	}
	done := int64(0)
	for _, s := range streams {
		out, err := b.Stream(s.name, s.src.Size())
		if err != nil {
			return stats, err
		}
		so := StreamOptions{ChunkSize: opts.ChunkSize, CleanSample: opts.CleanSample, Damaged: opts.Damaged}
		if opts.Progress != nil {
			so.Progress = func(n int64) {
				done += n
				opts.Progress(done, stats.Size)
			}
		}
		if s.name == manifest.MemoryStream {
			so.Dirty = opts.Dirty
		}
		if opts.Parent != nil {
			p, err := opts.Parent.Stream(s.name)
			if err != nil && !errors.Is(err, manifest.ErrNotFound) {
				return stats, err
			}
			if err == nil {
				so.Parent = p
			}
		}
		got, err := Stream(ctx, s.src, sink, out, so)
		stats.Scanned += got.Scanned
		stats.Inherited += got.Inherited
		stats.Healed += got.Healed
		if err != nil {
			return stats, fmt.Errorf("stream %s: %w", s.name, err)
		}
	}
	return stats, nil
}

// stream is a named source.
type stream struct {
	name string
	src  chunker.Source
}

// streams lists the VM's streams, each once, the memory first.
func (vm *VM) streams() ([]stream, error) {
	if vm.Memory == nil {
		return nil, fmt.Errorf("%w: it has no memory", ErrInvalid)
	}
	rest := make(map[string]chunker.Source, len(vm.State)+len(vm.MachineState)+1)
	for name, src := range vm.State {
		rest[name] = src
	}
	if vm.Machine != nil {
		if err := vm.Machine.Validate(vm.Memory.Size()); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
		}
		encoded, err := vm.Machine.Encode()
		if err != nil {
			return nil, err
		}
		if rest[manifest.MachineStream] != nil {
			return nil, fmt.Errorf("%w: the stream %s is given twice", ErrInvalid, manifest.MachineStream)
		}
		rest[manifest.MachineStream] = Bytes(encoded)
	}
	for name, src := range vm.MachineState {
		if rest[name] != nil {
			return nil, fmt.Errorf("%w: the stream %s is given twice", ErrInvalid, name)
		}
		rest[name] = src
	}
	if rest[manifest.MemoryStream] != nil {
		return nil, fmt.Errorf("%w: the stream %s is given twice", ErrInvalid, manifest.MemoryStream)
	}
	if err := vm.checkReferences(rest); err != nil {
		return nil, err
	}
	streams := []stream{{manifest.MemoryStream, vm.Memory}}
	for name, src := range rest {
		if err := manifest.ValidName(name); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
		}
		streams = append(streams, stream{name, src})
	}
	slices.SortFunc(streams[1:], func(a, b stream) int { return bytes.Compare([]byte(a.name), []byte(b.name)) })
	return streams, nil
}

// checkReferences makes sure that the streams that Machine names are there.
func (vm *VM) checkReferences(streams map[string]chunker.Source) error {
	if vm.Machine == nil {
		return nil
	}
	var names []string
	for _, v := range vm.Machine.VCPUs {
		names = append(names, v.State)
	}
	for _, d := range vm.Machine.Devices {
		names = append(names, d.State)
	}
	for _, name := range names {
		if name != "" && streams[name] == nil {
			return fmt.Errorf("%w: its description refers to a stream %q that is not given", ErrInvalid, name)
		}
	}
	return nil
}

// Bytes is a source of bytes in memory.
func Bytes(b []byte) chunker.Source { return bytes.NewReader(b) }
