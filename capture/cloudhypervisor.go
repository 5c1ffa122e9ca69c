package capture

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/arcboxlabs/arcstore/chunker"
	"github.com/arcboxlabs/arcstore/manifest"
)

// Cloud Hypervisor's snapshots are directories of three files: config.json and state.json say what the VM is, and memory-ranges has its memory, range
// after range (docs/snapshot_restore.md there).
const (
	// CloudHypervisorPrefix begins the names of the streams that are the other files.
	CloudHypervisorPrefix = "cloud-hypervisor/"
	// CloudHypervisorMemory is the file that is the memory.
	CloudHypervisorMemory = "memory-ranges"
	// VMMCloudHypervisor is its name in the records of snapshots.
	VMMCloudHypervisor = "cloud-hypervisor"

	maxCloudState   = 64 << 20 // bytes of state.json
	maxCloudRanges  = 1 << 16
	maxCloudNesting = 32
)

// CloudHypervisor is a snapshot that Cloud Hypervisor has written.
type CloudHypervisor struct {
	files []*File
	vm    *VM
}

// OpenCloudHypervisor opens a snapshot's directory. It must be closed.
func OpenCloudHypervisor(dir string) (_ *CloudHypervisor, err error) {
	c := &CloudHypervisor{vm: &VM{State: make(map[string]chunker.Source), VMM: VMMCloudHypervisor}}
	defer func() {
		if err != nil {
			c.Close()
		}
	}()
	for _, name := range []string{CloudHypervisorMemory, "config.json", "state.json"} {
		f, err := OpenFile(filepath.Join(dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("capture: %w: %s is no snapshot of Cloud Hypervisor's: it lacks %s", ErrInvalid, dir, name)
		}
		if err != nil {
			return nil, err
		}
		c.files = append(c.files, f)
		if name == CloudHypervisorMemory {
			c.vm.Memory = f
		} else {
			c.vm.State[CloudHypervisorPrefix+name] = f
		}
	}
	state, err := os.ReadFile(filepath.Join(dir, "state.json"))
	if err != nil {
		return nil, fmt.Errorf("capture: %w", err)
	}
	if !json.Valid(state) {
		return nil, fmt.Errorf("capture: %w: state.json in %s is damaged: it is no JSON", ErrInvalid, dir)
	}
	c.vm.Machine = describeCloud(state, c.vm.Memory.Size())
	return c, nil
}

// Close closes the files.
func (c *CloudHypervisor) Close() error {
	var errs []error
	for _, f := range c.files {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

// VM returns the snapshot as a VM, to be captured while it is open.
func (c *CloudHypervisor) VM() *VM { return c.vm }

// describeCloud returns where the guest has its memory, as state.json says; nil where that is not found, or is of another memory.
func describeCloud(state []byte, size int64) *manifest.Machine {
	if len(state) > maxCloudState {
		return nil
	}
	var v any
	if json.Unmarshal(state, &v) != nil {
		return nil
	}
	ranges := cloudRanges(v, 0)
	m := &manifest.Machine{Architecture: host().Architecture}
	offset := int64(0)
	for _, r := range ranges {
		m.Regions = append(m.Regions, manifest.Region{GuestAddress: r.GPA, Size: r.Length, Offset: offset})
		offset += r.Length
	}
	if len(ranges) == 0 || offset != size || m.Validate(size) != nil {
		return nil
	}
	return m
}

type cloudRange struct {
	GPA    uint64 `json:"gpa"`
	Length int64  `json:"length"`
}

// cloudRanges looks for the memory manager's table of ranges: parts of the state are JSON in strings in JSON.
func cloudRanges(v any, depth int) []cloudRange {
	if depth > maxCloudNesting {
		return nil
	}
	switch v := v.(type) {
	case map[string]any:
		for _, name := range []string{"memory_ranges", "data"} {
			if list, ok := v[name].([]any); ok {
				if ranges := asCloudRanges(list); ranges != nil {
					return ranges
				}
			}
		}
		for _, inner := range v {
			if ranges := cloudRanges(inner, depth+1); ranges != nil {
				return ranges
			}
		}
	case []any:
		for _, inner := range v {
			if ranges := cloudRanges(inner, depth+1); ranges != nil {
				return ranges
			}
		}
	case string:
		var inner any
		if len(v) > 1 && v[0] == '{' && json.Unmarshal([]byte(v), &inner) == nil {
			return cloudRanges(inner, depth+1)
		}
	}
	return nil
}

// asCloudRanges returns a list of ranges; nil where it is one of something else.
func asCloudRanges(list []any) []cloudRange {
	b, err := json.Marshal(list)
	if err != nil || len(list) == 0 || len(list) > maxCloudRanges {
		return nil
	}
	var ranges []cloudRange
	if json.Unmarshal(b, &ranges) != nil {
		return nil
	}
	for _, r := range ranges {
		if r.Length <= 0 {
			return nil
		}
	}
	return ranges
}
