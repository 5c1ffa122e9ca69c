package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/arcboxlabs/arcstore"
	"github.com/arcboxlabs/arcstore/capture"
	"github.com/arcboxlabs/arcstore/manifest"
)

// dirtyPage is the number of bytes that a bit of a dirty bitmap stands for.
const dirtyPage = 4 << 10

func newCreateCommand(a *app) *cobra.Command {
	cmd := group(&cobra.Command{
		Use:   "create",
		Short: "Take a snapshot",
		Long:  "Create takes a snapshot of a target. It is durable when the command ends.",
		Example: `  arcstore create vm web-1 --memory /run/vm/web-1.ram
  arcstore create container db-1 --pid 4711 --leave-running`,
	})
	cmd.AddCommand(newCreateVMCommand(a), newCreateContainerCommand(a))
	return cmd
}

type createVMOptions struct {
	memory      string
	dirty       string
	cleanSample int
	state       []string
	machine     string
	vmm         string
	qemu        string
	elfCore     string
	mappedRAM   string
	cloud       string
	preCopy     bool
	firecracker string
	diff        bool
	exec        string
	about       aboutOptions
}

// aboutOptions are the flags that every kind of create has.
type aboutOptions struct {
	parent      string
	name        string
	description string
	labels      []string
}

func (opt *aboutOptions) addTo(a *app, cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&opt.parent, "parent", arcstore.ParentLatest, "snapshot that this one descends from: `ID`, latest or none")
	f.StringVar(&opt.name, "name", "", "name for people")
	f.StringVar(&opt.description, "description", "", "what there is to say about it")
	f.StringArrayVar(&opt.labels, "label", nil, "label, as `K=V`; may be repeated")
	must(cmd.RegisterFlagCompletionFunc("parent", a.completeParents))
	for _, name := range []string{"name", "description", "label"} {
		must(cmd.RegisterFlagCompletionFunc(name, cobra.NoFileCompletions))
	}
}

// request returns what the flags say.
func (opt *aboutOptions) request(target string) (*arcstore.CreateRequest, error) {
	labels, err := parsePairs("--label", "K=V", opt.labels)
	if err != nil {
		return nil, err
	}
	return &arcstore.CreateRequest{Target: target, Parent: opt.parent, Name: opt.name, Description: opt.description, Labels: labels}, nil
}

// create takes a snapshot and prints it.
func (a *app) create(cmd *cobra.Command, req *arcstore.CreateRequest) error {
	p := a.progress()
	defer p.close()
	return a.write(cmd, func(h holder) error {
		s, err := h.Create(cmd.Context(), req, a.events(p))
		p.close()
		if s == nil {
			return err
		}
		return errors.Join(a.printCreated(s), err) // both, where a guest or processes are not as they should be afterwards
	})
}

func newCreateVMCommand(a *app) *cobra.Command {
	var opt createVMOptions
	cmd := &cobra.Command{
		Use:   "vm TARGET --memory FILE | --qemu SOCKET | --firecracker SOCKET | ...",
		Short: "Take a snapshot of a virtual machine",
		Long: `Create vm takes a snapshot of TARGET, a free name for the virtual machine, from
the file that holds its memory, which must not change meanwhile. Other files that
belong to its state are given by --state, and stored under the name given there.

Only what differs from the parent is stored: by default the target's newest
snapshot. With --dirty, the pages that the bitmap calls clean are not even read: one
bit for each 4 KiB page, lowest bit of the first byte first, as KVM's dirty log
gives it. A bitmap is right only against the snapshot that it was started from,
so --parent must name that one.

With --qemu, a guest is snapshotted while it runs: QEMU is asked over its QMP socket to
pause it, its memory is read in place, and it goes on as soon as that is done, even if this
process is killed. Its memory must be a file shared with QEMU (-object
memory-backend-file,share=on). The rest of its state becomes the stream ` + capture.QEMUState + `.
--pre-copy reads the memory once before the pause, which is shorter then.

With --firecracker, Firecracker is asked over its API socket to pause its guest and to write its
memory and state into files, and the guest goes on before those are stored. Its state is the
stream ` + capture.FirecrackerState + `; its disks are not part of the snapshot. With --diff, Firecracker writes
nothing but the pages that changed since the parent, where that is the last thing that anybody
asked it for; where not, it writes all, and a note says why. Firecracker does not tell by whom it was
asked in the instants in which a snapshot begins and ends, so --diff is for guests of which
nobody else takes snapshots.

With --exec, COMMAND is run by /bin/sh -c. It writes the memory into the file
$` + capture.ExecMemory + ` and other streams, if there are any, into files of their names in the
directory $` + capture.ExecStateDir + `; $` + capture.ExecTarget + ` is TARGET. It ends with 0, or there is no snapshot.

--elf-core takes a core that QEMU's dump-guest-memory or gdb's gcore wrote, and --cloud-hypervisor the
directory of a snapshot of Cloud Hypervisor's; --mapped-ram takes a file that QEMU 9 or later has
migrated to with the capability mapped-ram. The memory in them is found page by page, so that it
is deduplicated with all other; export gives back the same file, or directory.`,
		Example: `  arcstore create vm web-1 --memory /run/vm/web-1.ram --state vmstate=/run/vm/web-1.state
  arcstore create vm web-1 --memory /run/vm/web-1.ram --name nightly --label pin=yes
  arcstore create vm web-1 --memory /run/vm/web-1.ram --dirty /run/vm/web-1.dirty --parent 7f3a09c1
  arcstore create vm web-1 --qemu /run/vm/web-1.qmp --pre-copy
  arcstore create vm web-1 --firecracker /run/vm/web-1.api --diff
  arcstore create vm web-1 --exec 'vmm-ctl dump "$ARCSTORE_TARGET" "$ARCSTORE_MEMORY"'
  arcstore create vm web-1 --elf-core /tmp/web-1.core`,
		Args:              takes(1, 1, "the TARGET"),
		ValidArgsFunction: atMost(1, a.completeTargets),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runCreateVM(cmd, a, opt, args[0])
		},
	}
	f := cmd.Flags()
	f.StringVar(&opt.memory, "memory", "", "`FILE` or block device that holds the memory")
	f.StringVar(&opt.dirty, "dirty", "", "`FILE` with the bitmap of the pages that may differ from --parent")
	f.IntVar(&opt.cleanSample, "clean-sample", capture.DefaultCleanSample, "check one in `N` pages that the bitmap calls clean; -1 for none")
	f.StringArrayVar(&opt.state, "state", nil, "further stream, as `NAME=FILE`; may be repeated")
	f.StringVar(&opt.machine, "machine", "", "`FILE` with the machine's regions, vCPUs and devices as JSON")
	f.StringVar(&opt.vmm, "vmm", "", "what runs it, as `NAME=VERSION`, such as qemu=7.2: restore --check compares it")
	f.StringVar(&opt.qemu, "qemu", "", "QMP `SOCKET` of a running QEMU guest")
	f.StringVar(&opt.elfCore, "elf-core", "", "`FILE` that is an ELF core")
	f.StringVar(&opt.mappedRAM, "mapped-ram", "", "`FILE` that QEMU has migrated to with mapped-ram")
	f.StringVar(&opt.cloud, "cloud-hypervisor", "", "`DIR` that is a snapshot of Cloud Hypervisor's")
	must(cmd.MarkFlagDirname("cloud-hypervisor"))
	f.BoolVar(&opt.preCopy, "pre-copy", false, "read the memory before the guest is paused, too")
	f.StringVar(&opt.firecracker, "firecracker", "", "API `SOCKET` of a Firecracker whose guest runs")
	f.BoolVar(&opt.diff, "diff", false, "have Firecracker write only what changed, where it is certain since when")
	f.StringVar(&opt.exec, "exec", "", "`COMMAND` that writes the memory")
	must(cmd.RegisterFlagCompletionFunc("exec", cobra.NoFileCompletions))
	must(cmd.RegisterFlagCompletionFunc("clean-sample", cobra.NoFileCompletions))
	must(cmd.RegisterFlagCompletionFunc("vmm", cobra.NoFileCompletions))
	opt.about.addTo(a, cmd)
	return exits(cmd, exitFailed, exitUsage, exitNotFound, exitDamage, exitInUse, exitInterrupted)
}

func runCreateVM(cmd *cobra.Command, a *app, opt createVMOptions, target string) error {
	sources := []string{"memory", "qemu", "firecracker", "exec", "elf-core", "mapped-ram", "cloud-hypervisor"}
	if err := oneOf(cmd, sources...); err != nil {
		return err
	}
	source := sources[slices.IndexFunc(sources, cmd.Flags().Changed)]
	if source != "memory" {
		for _, name := range []string{"dirty", "clean-sample", "state", "machine", "vmm"} {
			if cmd.Flags().Changed(name) {
				return usagef("--%s goes with --memory alone", name)
			}
		}
		if cmd.Flags().Lookup(source).Value.String() == "" {
			return usagef("--%s is empty", source)
		}
	}
	if opt.preCopy && source != "qemu" {
		return usagef("--pre-copy goes with --qemu")
	}
	if opt.diff && source != "firecracker" {
		return usagef("--diff goes with --firecracker")
	}
	req, err := opt.about.request(target)
	if err != nil {
		return err
	}
	switch source {
	case "memory":
		req.Files, err = opt.files()
	case "qemu":
		req.QEMU = &arcstore.QEMU{PreCopy: opt.preCopy}
		req.QEMU.Socket, err = fullPath(opt.qemu)
	case "firecracker":
		req.Firecracker = &arcstore.Firecracker{Diff: opt.diff}
		req.Firecracker.Socket, err = fullPath(opt.firecracker)
	case "exec":
		req.Exec = &arcstore.Exec{Command: []string{"/bin/sh", "-c", opt.exec}}
		req.Exec.Directory, err = os.Getwd()
	case "elf-core":
		req.ELFCore, err = fullPath(opt.elfCore)
	case "mapped-ram":
		req.MappedRAM, err = fullPath(opt.mappedRAM)
	case "cloud-hypervisor":
		req.CloudHypervisor, err = fullPath(opt.cloud)
	}
	if err != nil {
		return err
	}
	return a.create(cmd, req)
}

// printCreated prints a new snapshot.
func (a *app) printCreated(s *arcstore.Snapshot) error {
	return a.result(s, func(w io.Writer) {
		f := facts{}
		f.add("created", "%s", s.ID)
		f.add("target", "%s", s.TargetID)
		f.add("parent", "%s", orNone(s.Parent))
		f.add("size", "%s", size(s.Size))
		addCost(&f, s)
		f.print(w)
	})
}

// files returns the files that a VM's state is in. What cannot be opened is an error already.
func (opt *createVMOptions) files() (*arcstore.Files, error) {
	find := func(flag, name string) (full string, size int64, err error) {
		f, err := capture.OpenFile(name)
		if err == nil {
			defer f.Close()
			size = f.Size()
			full, err = fullPath(name)
		}
		if err != nil {
			return "", 0, fmt.Errorf("%s: %w", flag, err)
		}
		return full, size, nil
	}
	files := &arcstore.Files{State: make(map[string]string), CleanSample: opt.cleanSample}
	memory, memorySize, err := find("--memory", opt.memory)
	if err != nil {
		return nil, err
	}
	files.Memory = memory
	if files.VMM, files.VMMVersion, err = parseVMM(opt.vmm); err != nil {
		return nil, err
	}
	names, err := parsePairs("--state", "NAME=FILE", opt.state)
	if err != nil {
		return nil, err
	}
	for name, file := range names {
		if files.State[name], _, err = find("--state "+name, file); err != nil {
			return nil, err
		}
	}
	if opt.machine != "" {
		if files.Machine, err = readMachine(opt.machine); err != nil {
			return nil, err
		}
	}
	if opt.cleanSample == 0 {
		return nil, usagef("--clean-sample 0 says nothing: one in N pages is checked, or none with -1")
	}
	if opt.dirty != "" {
		pages := (memorySize + dirtyPage - 1) / dirtyPage
		if files.Dirty, err = readBounded("--dirty", opt.dirty, (pages+63)/64*8); err != nil {
			return nil, err
		}
	}
	return files, nil
}

// readMachine reads the JSON form of a machine. Fields that it does not have are errors, not losses.
func readMachine(file string) (*arcstore.Machine, error) {
	text, err := readBounded("--machine", file, manifest.MaxMachineSize)
	if err != nil {
		return nil, err
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	m := new(arcstore.Machine)
	if err := d.Decode(m); err != nil {
		return nil, usagef("--machine: %s does not describe a machine: %v", file, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, usagef("--machine: %s has more than one JSON document", file)
	}
	return m, nil
}

// readBounded reads a file that has no business being longer than limit bytes.
func readBounded(flag, name string, limit int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", flag, err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", flag, err)
	}
	if int64(len(b)) > limit {
		return nil, usagef("%s: %s is longer than the %d bytes that it may have", flag, name, limit)
	}
	return b, nil
}

// parsePairs reads the K=V arguments of a flag.
func parsePairs(flag, form string, pairs []string) (map[string]string, error) {
	m := make(map[string]string, len(pairs))
	for _, pair := range pairs {
		key, value, ok := strings.Cut(pair, "=")
		if !ok || key == "" {
			return nil, usagef("%s %q is not of the form %s", flag, pair, form)
		}
		if _, ok := m[key]; ok {
			return nil, usagef("%s %s is given twice", flag, key)
		}
		m[key] = value
	}
	return m, nil
}
