package offload

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"sort"
)

// maxMappings is how many pieces a guest's memory may have: a hypervisor has no more slots.
const maxMappings = 1 << 15

// page is what all addresses, sizes and offsets are multiples of, in bytes.
const page = 4096

// Config is what a guest's configuration says that has to be known here.
type Config struct {
	// VM is the configuration of the guest itself, as config.json has it in a snapshot's directory.
	VM json.RawMessage
	// Mappings are the pieces of its memory, in the order of their addresses.
	Mappings []Mapping
	// Size is that of all of them together, in bytes.
	Size int64
}

// Mapping is one piece of a guest's memory.
type Mapping struct {
	Slot       uint32 // names its file
	GPA        uint64 // guest-physical address
	Size       int64  // bytes
	FileOffset int64  // where in the slot's file it begins, in bytes
	Offset     int64  // where it begins in the pieces one after another, in bytes
}

// ParseConfig reads a configuration, the payload of a SendConfig. One that cannot be, such as of pieces that overlap, wraps ErrProtocol.
func ParseConfig(b []byte) (*Config, error) {
	var document struct {
		VM     json.RawMessage `json:"vm_config"`
		Memory struct {
			Mappings []struct {
				Slot       *uint32 `json:"slot"`
				GPA        *uint64 `json:"gpa"`
				Size       *uint64 `json:"size"`
				FileOffset *uint64 `json:"file_offset"`
			} `json:"guest_ram_mappings"`
		} `json:"memory_manager_data"`
	}
	broken := func(format string, args ...any) (*Config, error) {
		return nil, fmt.Errorf("offload: %w: its configuration %s", ErrProtocol, fmt.Sprintf(format, args...))
	}
	if err := json.Unmarshal(b, &document); err != nil {
		return broken("cannot be read: %v", err)
	}
	all := document.Memory.Mappings
	if len(document.VM) == 0 || len(all) == 0 || len(all) > maxMappings {
		return broken("does not say what the guest is, and where it has its memory")
	}
	c := &Config{VM: document.VM, Mappings: make([]Mapping, 0, len(all))}
	slots := make(map[uint32]bool, len(all))
	for _, m := range all {
		if m.Slot == nil || m.GPA == nil || m.Size == nil || m.FileOffset == nil {
			return broken("lacks the slot, the address, the size or the offset of a piece of memory")
		}
		if *m.Size == 0 || (*m.GPA|*m.Size|*m.FileOffset)%page != 0 || !wholeInt64(*m.Size, *m.FileOffset) || *m.GPA > math.MaxUint64-*m.Size {
			return broken("has a piece of memory at %#x of %d bytes, at the offset %d of its file, which cannot be", *m.GPA, *m.Size, *m.FileOffset)
		}
		if slots[*m.Slot] {
			return broken("has two pieces of memory in the slot %d", *m.Slot)
		}
		slots[*m.Slot] = true
		c.Mappings = append(c.Mappings, Mapping{Slot: *m.Slot, GPA: *m.GPA, Size: int64(*m.Size), FileOffset: int64(*m.FileOffset)})
	}
	slices.SortFunc(c.Mappings, func(a, b Mapping) int { return cmp.Compare(a.GPA, b.GPA) })
	for i := range c.Mappings {
		m := &c.Mappings[i]
		if i > 0 && m.GPA-c.Mappings[i-1].GPA < uint64(c.Mappings[i-1].Size) {
			return broken("has two pieces of memory at %#x", m.GPA)
		}
		if !wholeInt64(uint64(c.Size), uint64(m.Size)) {
			return broken("has more memory than there can be")
		}
		m.Offset = c.Size
		c.Size += m.Size
	}
	return c, nil
}

// Find returns the index of the mapping that a range lies in as a whole; false where there is none.
func (c *Config) Find(r Range) (int, bool) {
	i := sort.Search(len(c.Mappings), func(i int) bool { return c.Mappings[i].GPA > r.GPA }) - 1
	if i < 0 || r.Length == 0 {
		return 0, false
	}
	m := &c.Mappings[i]
	from := r.GPA - m.GPA
	return i, from < uint64(m.Size) && r.Length <= uint64(m.Size)-from
}

// Pieces calls f for each part of a mapping that n bytes from off on lie in, where off is as Mapping.Offset: at is where the part begins in the
// mapping, and from to to is the part of the n bytes. It ends with the first error.
func (c *Config) Pieces(off, n int64, f func(i int, at, from, to int64) error) error {
	i := sort.Search(len(c.Mappings), func(i int) bool { return c.Mappings[i].Offset > off }) - 1
	for done := int64(0); done < n; i++ {
		if i < 0 || i >= len(c.Mappings) {
			return fmt.Errorf("offload: %d bytes at %d lie outside of the memory of %d bytes", n, off, c.Size)
		}
		m := &c.Mappings[i]
		at := off + done - m.Offset
		part := min(n-done, m.Size-at)
		if err := f(i, at, done, done+part); err != nil {
			return err
		}
		done += part
	}
	return nil
}
