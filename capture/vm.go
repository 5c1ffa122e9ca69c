package capture

import (
	"context"
	"errors"
	"fmt"

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
	// VMM is what runs the guest, such as "qemu", and VMMVersion its version; "" where that is not known.
	VMM, VMMVersion string
}

// ErrInvalid is wrapped by the errors for what cannot be captured as it is described.
var ErrInvalid = errors.New("invalid argument")

// CaptureVM captures every stream of vm: chunks go to sink, page tables to b,
// in the order of the streams' names with the memory first.
func CaptureVM(ctx context.Context, vm *VM, sink Sink, b *manifest.Builder, opts Options) (Stats, error) {
	streams, err := vm.streams()
	if err != nil {
		return Stats{}, fmt.Errorf("capture: %w", err)
	}
	stats, err := captureStreams(ctx, streams, sink, b, opts)
	stats.VMM, stats.VMMVersion = vm.VMM, vm.VMMVersion
	return stats, err
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
	streams, err := sortStreams(rest)
	return append([]stream{{manifest.MemoryStream, vm.Memory}}, streams...), err
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
