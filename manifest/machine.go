package manifest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
)

const (
	machineVersion = 1
	// MaxMachineSize bounds the encoding of a Machine, in bytes.
	MaxMachineSize = 16 << 20
)

// Machine describes what of a VM's state is not just bytes of a stream. The
// opaque bytes are streams of their own, whose names it holds.
type Machine struct {
	Format       int      `json:"format"`
	Architecture string   `json:"architecture"` // as GOARCH names it: amd64, arm64
	Regions      []Region `json:"regions"`
	VCPUs        []VCPU   `json:"vcpus,omitempty"`
	Devices      []Device `json:"devices,omitempty"`
}

// Region is a range of guest-physical addresses that lies in the stream "memory".
type Region struct {
	GuestAddress uint64 `json:"guest_address"`
	Size         int64  `json:"size"`   // bytes
	Offset       int64  `json:"offset"` // in the stream
	ReadOnly     bool   `json:"read_only,omitempty"`
}

// VCPU is the state of one virtual processor.
type VCPU struct {
	Index     int               `json:"index"`
	Registers map[string]uint64 `json:"registers,omitempty"`
	State     string            `json:"state,omitempty"` // stream that holds its opaque bytes, see VCPUStream
}

// Device is the state of one device.
type Device struct {
	Type  string `json:"type"` // such as "virtio-net"
	Name  string `json:"name"`
	State string `json:"state,omitempty"` // stream that holds its opaque bytes, see DeviceStream
}

// VCPUStream returns the usual name of the stream for a vCPU's opaque bytes.
func VCPUStream(index int) string { return fmt.Sprintf("vcpu/%d", index) }

// DeviceStream returns the usual name of the stream for a device's opaque bytes.
func DeviceStream(typ, name string) string { return "device/" + typ + "/" + name }

// Validate checks a description against a memory stream of memorySize bytes:
// regions lie inside it and overlap neither there nor in the guest.
func (m *Machine) Validate(memorySize int64) error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("manifest: %w machine: %s", ErrInvalid, fmt.Sprintf(format, args...))
	}
	for _, r := range m.Regions {
		if r.Size <= 0 || r.Offset < 0 || r.Offset > memorySize-r.Size {
			return bad("the region at %#x (offset %d, %d bytes) lies outside the memory of %d bytes", r.GuestAddress, r.Offset, r.Size, memorySize)
		}
		if r.GuestAddress+uint64(r.Size)-1 < r.GuestAddress {
			return bad("the region at %#x reaches beyond the last address", r.GuestAddress)
		}
	}
	regions := slices.Clone(m.Regions)
	slices.SortFunc(regions, func(a, b Region) int { return int(min(1, max(-1, a.Offset-b.Offset))) })
	for i := 1; i < len(regions); i++ {
		if regions[i].Offset < regions[i-1].Offset+regions[i-1].Size {
			return bad("two regions share the memory at offset %d", regions[i].Offset)
		}
	}
	slices.SortFunc(regions, func(a, b Region) int {
		if a.GuestAddress < b.GuestAddress {
			return -1
		}
		return 1
	})
	for i := 1; i < len(regions); i++ {
		if regions[i].GuestAddress-regions[i-1].GuestAddress < uint64(regions[i-1].Size) {
			return bad("two regions share the guest address %#x", regions[i].GuestAddress)
		}
	}
	seen := make(map[int]bool)
	for _, v := range m.VCPUs {
		if v.Index < 0 || seen[v.Index] {
			return bad("vCPU %d is there twice, or negative", v.Index)
		}
		seen[v.Index] = true
	}
	return nil
}

// Encode returns the description as the stream MachineStream holds it.
func (m *Machine) Encode() ([]byte, error) {
	m.Format = machineVersion
	b, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("manifest: %w machine: %w", ErrInvalid, err)
	}
	if len(b) > MaxMachineSize {
		return nil, fmt.Errorf("manifest: %w machine: its description has more than %d bytes", ErrInvalid, MaxMachineSize)
	}
	return b, nil
}

// DecodeMachine is the inverse of Encode. It does not Validate.
func DecodeMachine(b []byte) (*Machine, error) {
	if len(b) > MaxMachineSize {
		return nil, &CorruptError{File: MachineStream, Why: "it is too large"}
	}
	m := &Machine{}
	d := json.NewDecoder(bytes.NewReader(b))
	if err := d.Decode(m); err != nil {
		return nil, &CorruptError{File: MachineStream, Why: err.Error()}
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, &CorruptError{File: MachineStream, Why: "it goes on after its end"}
	}
	if m.Format > machineVersion {
		return nil, fmt.Errorf("manifest: %w: the machine has format %d, this program knows up to %d", ErrVersion, m.Format, machineVersion)
	}
	return m, nil
}
