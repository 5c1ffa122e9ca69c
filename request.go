package arcstore

import (
	"context"
	"errors"
	"fmt"

	"github.com/arcboxlabs/arcstore/capture"
	"github.com/arcboxlabs/arcstore/manifest"
	"github.com/arcboxlabs/arcstore/store/control"
)

// Events is who is told of an operation while it runs: its progress, notes and warnings. A nil pointer and nil fields are nobody.
type Events = control.Events

// CreateRequest says in words what to take a snapshot of, and how: it can be written down, in a schedule, or sent to the process
// that holds the store. Exactly one of what follows its labels is set. All paths are absolute.
type CreateRequest struct {
	Target      string            `json:"target"`
	Parent      string            `json:"parent,omitempty"` // as in CreateOptions
	Name        string            `json:"name,omitempty"`
	Description string            `json:"description,omitempty"`
	Labels      map[string]string `json:"labels,omitempty"`

	Files       *Files       `json:"files,omitempty"`
	QEMU        *QEMU        `json:"qemu,omitempty"`
	Firecracker *Firecracker `json:"firecracker,omitempty"`
	Exec        *Exec        `json:"exec,omitempty"`
	Container   *Container   `json:"container,omitempty"`
	// ELFCore is the path of an ELF core, as QEMU's dump-guest-memory writes it.
	ELFCore string `json:"elf_core,omitempty"`
	// MappedRAM is the path of a file that QEMU has migrated to with the capability mapped-ram.
	MappedRAM string `json:"mapped_ram,omitempty"`
	// CloudHypervisor is the path of a directory that is a snapshot of Cloud Hypervisor's.
	CloudHypervisor string `json:"cloud_hypervisor,omitempty"`
	// Offload waits for a Cloud Hypervisor that hands its guest over.
	Offload *Offload `json:"offload,omitempty"`
}

// Files is a VM whose memory and state are files that do not change meanwhile.
type Files struct {
	Memory string            `json:"memory"`          // path of a file or block device
	State  map[string]string `json:"state,omitempty"` // paths of further streams, by their names
	// Machine describes the VM; nil for nothing.
	Machine *Machine `json:"machine,omitempty"`
	// VMM and VMMVersion say what runs it, such as "qemu" and "7.2"; "" where that does not matter.
	VMM        string `json:"vmm,omitempty"`
	VMMVersion string `json:"vmm_version,omitempty"`
	// Dirty and CleanSample are as in CreateOptions.
	Dirty       []byte `json:"dirty,omitempty"`
	CleanSample int    `json:"clean_sample,omitempty"`
}

// QEMU is a guest of QEMU's that runs, as capture.OpenQEMU takes it.
type QEMU struct {
	Socket  string `json:"socket"`             // path of its QMP socket
	PreCopy bool   `json:"pre_copy,omitempty"` // as in GuestOptions
}

// Firecracker is a guest of Firecracker's that runs, as capture.OpenFirecracker takes it.
type Firecracker struct {
	Socket string `json:"socket"`         // path of its API socket
	Diff   bool   `json:"diff,omitempty"` // as in capture.FirecrackerOptions
}

// Exec is a command that writes a VM's memory and state into files, as capture.Exec runs it.
type Exec struct {
	Command   []string `json:"command"`             // a program and its arguments
	Directory string   `json:"directory,omitempty"` // where it is run; "" is that of the process that holds the store
}

// Create takes the snapshot that a request asks for. Files, guests and processes are reached as this process reaches them.
func (m *Manager) Create(ctx context.Context, req *CreateRequest, events *Events) (*Snapshot, error) {
	if err := req.Check(); err != nil {
		return nil, err
	}
	opts := CreateOptions{Parent: req.Parent, Name: req.Name, Description: req.Description, Labels: req.Labels, Progress: events.Report}
	switch {
	case req.Files != nil:
		return m.createFromFiles(ctx, req.Target, req.Files, &opts)
	case req.QEMU != nil:
		return m.createFromQEMU(ctx, req.Target, req.QEMU, &opts)
	case req.ELFCore != "":
		return m.createFromDump(ctx, req.Target, func() (dumpSource, error) { return capture.OpenELFCore(req.ELFCore) }, &opts)
	case req.MappedRAM != "":
		return m.createFromDump(ctx, req.Target, func() (dumpSource, error) { return capture.OpenMappedRAM(req.MappedRAM) }, &opts)
	case req.CloudHypervisor != "":
		return m.createFromDump(ctx, req.Target, func() (dumpSource, error) { return capture.OpenCloudHypervisor(req.CloudHypervisor) }, &opts)
	case req.Offload != nil:
		return m.createFromOffload(ctx, req.Target, req.Offload, &opts, events)
	case req.Firecracker != nil:
		return m.createFromFirecracker(ctx, req.Target, req.Firecracker, &opts, events)
	case req.Exec != nil:
		return m.createFromExec(ctx, req.Target, req.Exec, &opts)
	}
	c := *req.Container
	c.Note = events.Say
	return m.CreateContainer(ctx, req.Target, &c, &opts)
}

// Check returns an error that wraps ErrInvalid where a request cannot be: it asks for one thing, of a target whose name can be one,
// and names all files so that every process finds the same. Whether they are there is not looked at.
func (req *CreateRequest) Check() error {
	if err := manifest.ValidTarget(req.Target); err != nil {
		return fmt.Errorf("arcstore: %w: %w", ErrInvalid, err)
	}
	said := 0
	var paths []string
	if f := req.Files; f != nil {
		said++
		paths = append(paths, f.Memory)
		for _, p := range f.State {
			paths = append(paths, p)
		}
	}
	if req.QEMU != nil {
		said++
		paths = append(paths, req.QEMU.Socket)
	}
	if req.Firecracker != nil {
		said++
		paths = append(paths, req.Firecracker.Socket)
	}
	if req.Offload != nil {
		said++
		paths = append(paths, req.Offload.Socket)
	}
	if e := req.Exec; e != nil {
		said++
		if len(e.Command) == 0 || e.Command[0] == "" {
			return fmt.Errorf("arcstore: %w: exec has no command", ErrInvalid)
		}
		if e.Directory != "" {
			paths = append(paths, e.Directory)
		}
	}
	if c := req.Container; c != nil {
		said++
		for _, p := range []string{c.Images, c.RuncRoot} {
			if p != "" {
				paths = append(paths, p)
			}
		}
	}
	for _, p := range []string{req.ELFCore, req.MappedRAM, req.CloudHypervisor} {
		if p != "" {
			said++
			paths = append(paths, p)
		}
	}
	if said != 1 {
		return fmt.Errorf("arcstore: %w: a request is for one of files, a dump, what a command writes, a guest, and a container", ErrInvalid)
	}
	for _, p := range paths {
		if err := absolute(p); err != nil {
			return err
		}
	}
	return nil
}

func (m *Manager) createFromFiles(ctx context.Context, target string, f *Files, opts *CreateOptions) (_ *Snapshot, err error) {
	var files []*capture.File
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	open := func(stream, name string) (Source, error) {
		f, err := capture.OpenFile(name)
		if err != nil {
			return nil, fmt.Errorf("arcstore: %s: %w", stream, err)
		}
		files = append(files, f)
		return f, nil
	}
	vm := &VM{VMM: f.VMM, VMMVersion: f.VMMVersion, Machine: f.Machine, State: make(map[string]Source, len(f.State))}
	if vm.Memory, err = open("memory", f.Memory); err != nil {
		return nil, err
	}
	for name, path := range f.State {
		if vm.State[name], err = open(name, path); err != nil {
			return nil, err
		}
	}
	opts.Dirty, opts.CleanSample = f.Dirty, f.CleanSample
	return m.CreateVM(ctx, target, vm, opts)
}

func (m *Manager) createFromQEMU(ctx context.Context, target string, q *QEMU, opts *CreateOptions) (_ *Snapshot, err error) {
	guest, err := capture.OpenQEMU(ctx, q.Socket)
	if err != nil {
		return nil, err
	}
	release := func() {}
	if m.guard != nil {
		if release, err = m.guard(capture.VMMQEMU, q.Socket); err != nil {
			return nil, errors.Join(err, guest.Close())
		}
	}
	defer func() {
		err = errors.Join(err, guest.Close())
		release()
	}()
	return m.CreateFromGuest(ctx, target, guest, &GuestOptions{CreateOptions: *opts, PreCopy: q.PreCopy})
}

func (m *Manager) createFromFirecracker(ctx context.Context, target string, fc *Firecracker, opts *CreateOptions, events *Events) (_ *Snapshot, err error) {
	release := func() {}
	guest := capture.OpenFirecracker(fc.Socket, capture.FirecrackerOptions{Diff: fc.Diff, Note: events.Say, Guard: func() (err error) {
		if m.guard != nil {
			var done func()
			if done, err = m.guard(capture.VMMFirecracker, fc.Socket); err == nil {
				release = done
			}
		}
		return err
	}})
	defer func() {
		err = errors.Join(err, guest.Close())
		release()
	}()
	return m.CreateFromGuest(ctx, target, guest, &GuestOptions{CreateOptions: *opts})
}

func (m *Manager) createFromExec(ctx context.Context, target string, e *Exec, opts *CreateOptions) (s *Snapshot, err error) {
	opts, observed := m.observeCreate(target, opts)
	defer func() { observed(s, err) }()
	return m.create(ctx, target, manifest.VM, opts, func(c *creation) (err error) {
		dir, err := m.stage(c.entry.ID)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, m.unstage(dir)) }()
		written, err := capture.Exec(ctx, e.Command, e.Directory, target, dir)
		if err != nil {
			return err
		}
		defer written.Close()
		stats, err := capture.CaptureVM(ctx, &written.VM, c.writer, c.builder, c.options(opts))
		if err != nil {
			return err
		}
		return c.commit(ctx, stats)
	})
}
