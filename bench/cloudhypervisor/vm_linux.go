package cloudhypervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// PageSize is that of the guest's memory, in bytes.
const PageSize = 4096

// Region is a piece of a guest's memory.
type Region struct {
	Slot       uint32 `json:"slot"`
	GPA        uint64 `json:"gpa"`
	Size       uint64 `json:"size"`
	Zone       string `json:"zone_id"` // its pieces lie in one file
	VirtioMem  bool   `json:"virtio_mem"`
	FileOffset uint64 `json:"file_offset"`
}

// VM is a guest that is paused, or said to be running: nothing executes in it.
type VM struct {
	Regions []Region
	Config  []byte // as it is sent
	State   []byte
	zones   map[string]*os.File
}

// NewVM makes a guest whose memory is zero, with the state of vCPUs and devices that device stands for.
func NewVM(regions []Region, device string) (*VM, error) {
	vm := &VM{Regions: regions, zones: make(map[string]*os.File)}
	type span struct {
		GPA    uint64 `json:"gpa"`
		Length uint64 `json:"length"`
	}
	var ranges []span
	sizes := make(map[string]uint64)
	for _, r := range regions {
		sizes[r.Zone] = max(sizes[r.Zone], r.FileOffset+r.Size)
		ranges = append(ranges, span{r.GPA, r.Size})
	}
	for zone, size := range sizes {
		fd, err := unix.MemfdCreate("ch_ram", unix.MFD_CLOEXEC)
		if err != nil {
			return nil, err
		}
		vm.zones[zone] = os.NewFile(uintptr(fd), "ch_ram")
		if err := vm.zones[zone].Truncate(int64(size)); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(ranges, func(a, b span) int { return int(int64(a.GPA) - int64(b.GPA)) })
	manager := map[string]any{
		"memory_ranges": map[string]any{"data": []span{}}, "guest_ram_mappings": regions, "start_of_device_area": 3 << 30, "boot_ram": 1 << 20,
		"current_ram": 1 << 20, "arch_mem_regions": []any{}, "hotplug_slots": []any{}, "next_memory_slot": len(regions), "selected_slot": 0, "next_hotplug_slot": 0,
	}
	var err error
	vm.Config, err = json.Marshal(map[string]any{"vm_config": map[string]any{"cpus": map[string]any{"boot_vcpus": 2}, "memory": map[string]any{"shared": true}},
		"common_cpuid": []any{}, "memory_manager_data": manager})
	if err != nil {
		return nil, err
	}
	manager["memory_ranges"] = map[string]any{"data": ranges}
	inner, err := json.Marshal(manager)
	if err != nil {
		return nil, err
	}
	vm.State, err = json.Marshal(map[string]any{"snapshots": map[string]any{
		"memory-manager": map[string]any{"snapshots": map[string]any{}, "snapshot_data": map[string]any{"state": string(inner)}},
		"device-manager": map[string]any{"snapshots": map[string]any{}, "snapshot_data": map[string]any{"state": device}},
	}})
	return vm, err
}

// Close lets go of the memory.
func (vm *VM) Close() {
	for _, f := range vm.zones {
		f.Close()
	}
}

// File returns the file that a region's zone lies in.
func (vm *VM) File(r *Region) *os.File { return vm.zones[r.Zone] }

// Write writes into a region, at an offset in it.
func (vm *VM) Write(r *Region, off uint64, b []byte) error {
	_, err := vm.File(r).WriteAt(b, int64(r.FileOffset+off))
	return err
}

// Memory returns all of the memory, in the order of its addresses.
func (vm *VM) Memory() ([]byte, error) {
	regions := slices.Clone(vm.Regions)
	slices.SortFunc(regions, func(a, b Region) int { return int(int64(a.GPA) - int64(b.GPA)) })
	var all []byte
	for i := range regions {
		b := make([]byte, regions[i].Size)
		if _, err := vm.File(&regions[i]).ReadAt(b, int64(regions[i].FileOffset)); err != nil {
			return nil, err
		}
		all = append(all, b...)
	}
	return all, nil
}

// SendOptions are the choices of a Send.
type SendOptions struct {
	Running bool // the guest was running when it was asked for
	// Before is called before each command; an error of it ends the Send, with the connection as Before leaves it.
	Before func(command uint16, c *net.UnixConn) error
}

// ErrKept: the guest was not handed over, and goes on here.
var ErrKept = errors.New("the guest stays here")

// Send plays vm.send-migration with destination_url=unix:socket,local=on. An error wraps ErrKept.
func (vm *VM) Send(ctx context.Context, socket string, opts *SendOptions) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrKept, err)
	}
	defer conn.Close()
	return vm.SendOn(conn.(*net.UnixConn), opts)
}

// SendOn is Send on a connection that is there.
func (vm *VM) SendOn(c *net.UnixConn, opts *SendOptions) error {
	if opts == nil {
		opts = &SendOptions{}
	}
	if err := vm.send(c, opts); err != nil {
		return fmt.Errorf("%w: %w", ErrKept, err)
	}
	return nil
}

func (vm *VM) send(c *net.UnixConn, opts *SendOptions) error {
	ask := func(command uint16, payload []byte) error {
		if opts.Before != nil {
			if err := opts.Before(command, c); err != nil {
				return err
			}
		}
		if _, err := c.Write(Header(command, 0, uint64(len(payload)))); err != nil {
			return err
		}
		if len(payload) > 0 {
			if _, err := c.Write(payload); err != nil {
				return err
			}
		}
		return ReadAnswer(c)
	}
	if err := ask(CmdStart, nil); err != nil {
		return err
	}
	// The slots are in a hash map there.
	for _, i := range rand.Perm(len(vm.Regions)) {
		r := &vm.Regions[i]
		if opts.Before != nil {
			if err := opts.Before(CmdMemoryFd, c); err != nil {
				return err
			}
		}
		if _, err := c.Write(Header(CmdMemoryFd, 0, 4)); err != nil {
			return err
		}
		if err := SendFile(c, r.Slot, vm.File(r)); err != nil {
			return err
		}
		if err := ReadAnswer(c); err != nil {
			return err
		}
	}
	if err := ask(CmdConfig, vm.Config); err != nil {
		return err
	}
	if err := ask(CmdState, vm.State); err != nil {
		return err
	}
	if opts.Running {
		return ask(CmdComplete, nil)
	}
	return ask(CmdCompletePaused, nil)
}
