package arcbox

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

// Names of files in a snapshot's directory.
const (
	InfoFile       = "snapshot.json"
	StateFile      = "vm_state.json"
	MemoryFile     = "memory.bin"
	CompressedFile = "memory.bin.lz4"
	CheckpointFile = "container_checkpoint.json"
	ImagesDir      = "criu"
)

// maxJSON bounds a JSON file, in bytes: device states are arrays of numbers in it.
const maxJSON = 256 << 20

// Errors of reading.
var (
	// ErrPlaceholder is the error of a snapshot that was taken without a VM's, or CRIU's, help: there is nothing in it.
	ErrPlaceholder = errors.New("it is a placeholder without a state")
	// ErrDamaged is the error of what cannot have been written like that.
	ErrDamaged = errors.New("data is damaged")
)

// Values of Info.
const (
	VM        = "Vm"
	Container = "Container"
	Creating  = "Creating"
	Ready     = "Ready"
	Invalid   = "Invalid"
)

// Info is snapshot.json.
type Info struct {
	ID          string            `json:"id"`
	Name        string            `json:"name"`
	TargetID    string            `json:"target_id"`
	TargetType  string            `json:"target_type"`
	Created     time.Time         `json:"created"`
	Size        uint64            `json:"size"` // of the files, bytes
	Parent      *string           `json:"parent"`
	Description *string           `json:"description"`
	Labels      map[string]string `json:"labels"`
	State       string            `json:"state"`
}

// ReadInfo reads the snapshot.json of a snapshot's directory; fs.ErrNotExist if that is none.
func ReadInfo(dir string) (*Info, error) {
	i := &Info{}
	if err := readJSON(filepath.Join(dir, InfoFile), i); err != nil {
		return nil, err
	}
	if i.ID == "" || i.TargetType != VM && i.TargetType != Container || i.State != Ready && i.State != Creating && i.State != Invalid {
		return nil, fmt.Errorf("arcbox: %s: %w: it lacks an ID, a target type or a state", InfoFile, ErrDamaged)
	}
	return i, nil
}

// Bytes are written as an array of numbers.
type Bytes []byte

// UnmarshalJSON implements json.Unmarshaler.
func (b *Bytes) UnmarshalJSON(text []byte) error {
	var numbers []uint8
	text = bytes.TrimSpace(text)
	if len(text) == 0 || text[0] != '[' {
		return errors.New("bytes are an array of numbers")
	}
	var wide []uint16 // of a []uint8, encoding/json expects base64
	if err := json.Unmarshal(text, &wide); err != nil {
		return err
	}
	for _, n := range wide {
		if n > 255 {
			return fmt.Errorf("%d is no byte", n)
		}
		numbers = append(numbers, uint8(n))
	}
	*b = numbers
	return nil
}

// MarshalJSON implements json.Marshaler.
func (b Bytes) MarshalJSON() ([]byte, error) {
	wide := make([]uint16, len(b))
	for i, n := range b {
		wide[i] = uint16(n)
	}
	return json.Marshal(wide)
}

// State is vm_state.json.
type State struct {
	Version     uint32   `json:"version"`
	Arch        string   `json:"arch"` // X86_64 or Aarch64
	VCPUs       []VCPU   `json:"vcpus"`
	Devices     []Device `json:"devices"`
	Regions     []Region `json:"memory_regions"`
	TotalMemory uint64   `json:"total_memory"` // bytes
	Compressed  bool     `json:"compressed"`
	Compression *string  `json:"compression"`
	ParentID    *string  `json:"parent_id"`
}

// VCPU is the state of one virtual processor.
type VCPU struct {
	ID         uint32          `json:"id"`
	Arch       string          `json:"arch"`
	X86        json.RawMessage `json:"x86_regs"`
	ARM64      json.RawMessage `json:"arm64_regs"`
	ExtraState Bytes           `json:"extra_state"`
}

// Registers returns those registers that are a single number, by name.
func (v *VCPU) Registers() map[string]uint64 {
	registers := make(map[string]uint64)
	for _, raw := range []json.RawMessage{v.X86, v.ARM64} {
		var all map[string]json.RawMessage
		if json.Unmarshal(raw, &all) != nil {
			continue
		}
		for name, value := range all {
			var n uint64
			if json.Unmarshal(value, &n) == nil {
				registers[name] = n
			}
		}
	}
	return registers
}

// Device is the state of one device.
type Device struct {
	Type  json.RawMessage `json:"device_type"`
	Name  string          `json:"name"`
	State Bytes           `json:"state"`
}

// Region is a range of guest-physical addresses.
type Region struct {
	GuestAddress uint64 `json:"guest_addr"`
	Size         uint64 `json:"size"`
	ReadOnly     bool   `json:"read_only"`
	FileOffset   uint64 `json:"file_offset"`
}

// ReadState reads vm_state.json: ErrPlaceholder if it is that of a snapshot without a state. raw are its bytes.
func ReadState(dir string) (s *State, raw []byte, err error) {
	raw, err = readFile(filepath.Join(dir, StateFile))
	if err != nil {
		return nil, nil, err
	}
	s, err = decodeState(raw)
	return s, raw, err
}

func decodeState(raw []byte) (*State, error) {
	var placeholder struct {
		CapturedAt *string         `json:"captured_at"`
		Version    json.RawMessage `json:"version"`
	}
	s := &State{}
	if err := json.Unmarshal(raw, &placeholder); err != nil {
		return nil, fmt.Errorf("arcbox: %s: %w: %w", StateFile, ErrDamaged, err)
	}
	if placeholder.Version == nil && placeholder.CapturedAt != nil {
		return nil, fmt.Errorf("arcbox: %s: %w", StateFile, ErrPlaceholder)
	}
	if err := json.Unmarshal(raw, s); err != nil {
		return nil, fmt.Errorf("arcbox: %s: %w: %w", StateFile, ErrDamaged, err)
	}
	if s.Version == 0 || s.TotalMemory == 0 {
		return nil, fmt.Errorf("arcbox: %s: %w: it has no version, or no memory", StateFile, ErrDamaged)
	}
	return s, nil
}

// Uncompressed returns a vm_state.json that says that the memory lies in memory.bin, and nothing else in another way.
func Uncompressed(raw []byte) ([]byte, error) {
	var all map[string]json.RawMessage
	if err := json.Unmarshal(raw, &all); err != nil {
		return nil, fmt.Errorf("arcbox: %s: %w: %w", StateFile, ErrDamaged, err)
	}
	all["compressed"], all["compression"] = json.RawMessage("false"), json.RawMessage("null")
	return json.MarshalIndent(all, "", "  ")
}

// Checkpoint is container_checkpoint.json.
type Checkpoint struct {
	TargetID    string          `json:"target_id"`
	CapturedAt  time.Time       `json:"captured_at"`
	ProcessTree []uint32        `json:"process_tree"`
	OpenFiles   []string        `json:"open_files"`
	Network     json.RawMessage `json:"network_state"`
}

// ReadCheckpoint reads container_checkpoint.json: ErrPlaceholder if CRIU had no part in it.
func ReadCheckpoint(dir string) (*Checkpoint, error) {
	c := &Checkpoint{}
	if err := readJSON(filepath.Join(dir, CheckpointFile), c); err != nil {
		return nil, err
	}
	if images, err := os.ReadDir(filepath.Join(dir, ImagesDir)); err != nil || len(images) == 0 {
		return nil, fmt.Errorf("arcbox: %s: %w: there are no images of CRIU's", CheckpointFile, ErrPlaceholder)
	}
	return c, nil
}

func readJSON(name string, v any) error {
	b, err := readFile(name)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("arcbox: %s: %w: %w", filepath.Base(name), ErrDamaged, err)
	}
	return nil
}

func readFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("arcbox: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxJSON+1))
	if err != nil {
		return nil, fmt.Errorf("arcbox: %w", err)
	}
	if len(b) > maxJSON {
		return nil, fmt.Errorf("arcbox: %s: %w: it has more than %d bytes", filepath.Base(name), ErrDamaged, maxJSON)
	}
	return b, nil
}
