package manifest

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"unicode/utf8"
)

const (
	machineVersion = 1
	// MaxMachineSize bounds the encoding of a Machine, in bytes.
	MaxMachineSize = 16 << 20
)

// Machine describes what of a VM's state is not just bytes of a stream. The
// opaque bytes are streams of their own, whose names it holds.
type Machine struct {
	Format       int      `json:"format"`       // set by Encode
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
// regions lie inside it and overlap neither there nor in the guest, and every
// vCPU, device and stream is named once.
func (m *Machine) Validate(memorySize int64) error {
	for _, check := range []error{m.checkRegions(memorySize), m.checkStates(), m.checkText()} {
		if check != nil {
			return fmt.Errorf("manifest: %w machine: %w", ErrInvalid, check)
		}
	}
	return nil
}

func (m *Machine) checkRegions(memorySize int64) error {
	for _, r := range m.Regions {
		if r.Size <= 0 || r.Offset < 0 || r.Offset > memorySize-r.Size {
			return fmt.Errorf("the region at %#x (offset %d, %d bytes) lies outside the memory of %d bytes", r.GuestAddress, r.Offset, r.Size, memorySize)
		}
		if r.GuestAddress+uint64(r.Size)-1 < r.GuestAddress {
			return fmt.Errorf("the region at %#x reaches beyond the last address", r.GuestAddress)
		}
	}
	regions := slices.Clone(m.Regions)
	slices.SortFunc(regions, func(a, b Region) int { return cmp.Compare(a.Offset, b.Offset) })
	for i := 1; i < len(regions); i++ {
		if regions[i].Offset-regions[i-1].Offset < regions[i-1].Size {
			return fmt.Errorf("two regions share the memory at offset %d", regions[i].Offset)
		}
	}
	slices.SortFunc(regions, func(a, b Region) int { return cmp.Compare(a.GuestAddress, b.GuestAddress) })
	for i := 1; i < len(regions); i++ {
		if regions[i].GuestAddress-regions[i-1].GuestAddress < uint64(regions[i-1].Size) {
			return fmt.Errorf("two regions share the guest address %#x", regions[i].GuestAddress)
		}
	}
	return nil
}

// checkStates checks what vCPUs and devices are called, and the streams that they name.
func (m *Machine) checkStates() error {
	streams := map[string]bool{MemoryStream: true, MachineStream: true}
	state := func(name string) error {
		if name == "" {
			return nil
		}
		if streams[name] {
			return fmt.Errorf("the stream %q has two uses", name)
		}
		streams[name] = true
		return checkName(name)
	}
	vcpus := make(map[int]bool)
	for _, v := range m.VCPUs {
		if v.Index < 0 || vcpus[v.Index] {
			return fmt.Errorf("vCPU %d is there twice, or negative", v.Index)
		}
		vcpus[v.Index] = true
		if err := state(v.State); err != nil {
			return fmt.Errorf("vCPU %d: %w", v.Index, err)
		}
	}
	devices := make(map[[2]string]bool)
	for _, d := range m.Devices {
		if key := [2]string{d.Type, d.Name}; devices[key] {
			return fmt.Errorf("the device %s %s is there twice", d.Type, d.Name)
		} else {
			devices[key] = true
		}
		if err := state(d.State); err != nil {
			return fmt.Errorf("device %s %s: %w", d.Type, d.Name, err)
		}
	}
	return nil
}

// checkText refuses what JSON would not give back as it was.
func (m *Machine) checkText() error {
	ok := utf8.ValidString(m.Architecture)
	for _, v := range m.VCPUs {
		for name := range v.Registers {
			ok = ok && utf8.ValidString(name)
		}
		ok = ok && utf8.ValidString(v.State)
	}
	for _, d := range m.Devices {
		ok = ok && utf8.ValidString(d.Type) && utf8.ValidString(d.Name) && utf8.ValidString(d.State)
	}
	if !ok {
		return errors.New("a name in it is not UTF-8")
	}
	return nil
}

// Encode returns the description as the stream MachineStream holds it.
func (m *Machine) Encode() ([]byte, error) {
	if err := m.checkText(); err != nil {
		return nil, fmt.Errorf("manifest: %w machine: %w", ErrInvalid, err)
	}
	versioned := *m
	versioned.Format = machineVersion
	b, err := json.Marshal(versioned)
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
	m := &Machine{}
	if err := decodeDescription(b, MachineStream, MaxMachineSize, machineVersion, m); err != nil {
		return nil, err
	}
	return m, nil
}

// decodeDescription parses a versioned JSON document, the stream name, into v.
func decodeDescription(b []byte, name string, limit int, known uint32, v any) error {
	corrupt := func(why string) error { return &CorruptError{File: name, Why: why} }
	if len(b) > limit {
		return corrupt("it is too large")
	}
	var version struct {
		Format uint32 `json:"format"`
	}
	if err := json.Unmarshal(b, &version); err != nil {
		return corrupt(err.Error())
	}
	if version.Format > known {
		return fmt.Errorf("manifest: %s: %w: it has format %d, this program knows up to %d", name, ErrVersion, version.Format, known)
	}
	if version.Format == 0 {
		return corrupt("it has no format version")
	}
	if err := json.Unmarshal(b, v); err != nil {
		return corrupt(err.Error())
	}
	return nil
}
