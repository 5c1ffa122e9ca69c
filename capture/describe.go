package capture

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	criu_core "github.com/checkpoint-restore/go-criu/v7/crit/images/criu-core"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/inventory"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/pstree"

	"github.com/arcboxlabs/arcstore/capture/criu"
	"github.com/arcboxlabs/arcstore/manifest"
)

// Describe tells what CRIU's images hold: processes, the root of the tree
// first, their open files and sockets, and what a restore must be told again,
// as far as the images show it. An image that is missing leaves out what it
// would tell, but for the inventory and the process tree; one that is damaged
// is a [criu.ImageError]. Text that is not printable comes escaped, as in Go's source.
//
// The strings are warnings for people. Images that are still incremental are
// described as they are.
func Describe(images criu.Images) (*manifest.Checkpoint, []string, error) {
	d := &description{images: images, left: descriptionSize, memory: map[string]int64{}}
	d.out = manifest.Checkpoint{Engine: "criu", Files: []manifest.OpenFile{}, Sockets: []manifest.Socket{}}
	for _, step := range []func() error{d.inventory, d.pagemaps, d.tree, d.locks, d.files} {
		if err := step(); err != nil {
			return nil, nil, fmt.Errorf("capture: %w", err)
		}
	}
	return &d.out, d.warnings, nil
}

// descriptionSize bounds a description, so that manifest.Checkpoint.Encode
// takes it, in bytes.
const descriptionSize = manifest.MaxCheckpointSize - 1<<20

// A description is a Describe under way.
type description struct {
	images   criu.Images
	out      manifest.Checkpoint
	warnings []string
	left     int              // bytes
	tcpClose bool             // connections were not kept
	memory   map[string]int64 // bytes that the pages image of a pagemap has
}

func (d *description) warn(format string, args ...any) {
	d.warnings = append(d.warnings, fmt.Sprintf(format, args...))
}

// fits takes the room that one more entry needs, and reports whether there was enough.
func (d *description) fits(entry any) bool {
	b, err := json.Marshal(entry)
	if err != nil || len(b)+1 > d.left {
		return false
	}
	d.left -= len(b) + 1
	return true
}

func (d *description) inventory() error {
	const name = "inventory.img"
	found := false
	err := d.images.Each(name, criu.TypeInventory, func(record []byte) error {
		found = true
		e := &inventory.InventoryEntry{}
		if err := criu.Unmarshal(record, e); err != nil {
			return err
		}
		d.tcpClose = e.GetTcpClose()
		return nil
	})
	if err == nil && !found {
		err = &criu.ImageError{Name: name, Why: "it is missing, or empty"}
	}
	return err
}

// tree describes the processes.
func (d *description) tree() error {
	const name = "pstree.img"
	seen := map[uint32]bool{}
	err := d.images.Each(name, criu.TypePstree, func(record []byte) error {
		e := &pstree.PstreeEntry{}
		if err := criu.Unmarshal(record, e); err != nil {
			return err
		}
		if seen[e.GetPid()] {
			return fmt.Errorf("it is the second of process %d", e.GetPid())
		}
		seen[e.GetPid()] = true
		p := manifest.Process{
			PID: int(e.GetPid()), Parent: int(e.GetPpid()), Group: int(e.GetPgid()), Session: int(e.GetSid()),
			Threads: len(e.GetThreads()), Memory: d.memory[fmt.Sprintf("pagemap-%d.img", e.GetPid())],
		}
		if err := d.core(&p); err != nil {
			return err
		}
		if err := d.mappings(&p); err != nil {
			return err
		}
		if !d.fits(p) {
			return errors.New("the processes are more than can be described")
		}
		d.out.Processes = append(d.out.Processes, p)
		return nil
	})
	if err != nil {
		return err
	}
	root := slices.IndexFunc(d.out.Processes, func(p manifest.Process) bool { return p.Parent == 0 })
	if len(d.out.Processes) == 0 {
		return &criu.ImageError{Name: name, Why: "it is missing, or empty: these are images of a pre-dump, which cannot be restored"}
	}
	if root > 0 {
		p := d.out.Processes[root]
		d.out.Processes = slices.Insert(slices.Delete(d.out.Processes, root, root+1), 0, p)
	}
	// CRIU dumps a root that does not lead its session only as a shell's job.
	first := d.out.Processes[0]
	d.out.Options.ShellJob = first.Session != first.PID
	return nil
}

// core tells the name and state of a process.
func (d *description) core(p *manifest.Process) error {
	return d.images.Each(fmt.Sprintf("core-%d.img", p.PID), criu.TypeCore, func(record []byte) error {
		// Without the thread's registers, and without the queue of signals that may be long.
		return criu.Fields(record, func(f criu.Field) error {
			if f.Number != 3 {
				return nil
			}
			task, err := criu.Only(f.Bytes, 1, 6)
			if err != nil {
				return err
			}
			e := &criu_core.TaskCoreEntry{}
			if err := criu.Unmarshal(task, e); err != nil {
				return err
			}
			p.Name = text(e.GetComm())
			p.State = taskState(e.GetTaskState())
			return nil
		})
	})
}

// taskState names CRIU's states of a task (compel's task-state.h).
func taskState(n uint32) string {
	switch n {
	case 1:
		return "running"
	case 3:
		return "stopped"
	case 2, 6:
		return "zombie"
	}
	return ""
}

// mappings sums up the address space of a process.
func (d *description) mappings(p *manifest.Process) error {
	return d.images.Each(fmt.Sprintf("mm-%d.img", p.PID), criu.TypeMM, func(record []byte) error {
		return criu.Fields(record, func(f criu.Field) error {
			if f.Number != 14 { // vmas: maybe very many, so not decoded as a whole
				return nil
			}
			var start, end uint64
			err := criu.Fields(f.Bytes, func(f criu.Field) error {
				switch f.Number {
				case 1:
					start = f.Value
				case 2:
					end = f.Value
				}
				return nil
			})
			sum := p.Mapped + int64(end-start)
			if err == nil && (end < start || int64(end-start) < 0 || sum < p.Mapped) {
				err = fmt.Errorf("its mapping from %#x to %#x cannot be", start, end)
			}
			p.Mapped = sum
			return err
		})
	})
}

// pagemaps counts the memory that the images hold, of processes and shared.
func (d *description) pagemaps() error {
	var compressed, incremental bool
	for _, name := range d.images.Pagemaps() {
		m, err := criu.ReadPagemap(d.images, name)
		if err != nil {
			return err
		}
		size, err := m.PageSize(d.images)
		if err != nil {
			return err
		}
		if m.Compressed {
			size = 4096 // of the pages that CRIU compresses
		}
		d.memory[name] = int64(m.Present()) * size
		compressed = compressed || m.Compressed
		incremental = incremental || m.Incremental()
	}
	if compressed {
		d.warn("CRIU has compressed the memory: equal pages cannot be found again, so snapshots share little of it; dump without --compress")
	}
	if incremental {
		d.warn("the images hold only what changed since those that they build on, and cannot be restored alone")
	}
	return nil
}

func (d *description) locks() error {
	return d.images.Each("filelocks.img", criu.TypeFileLocks, func([]byte) error {
		d.out.Options.FileLocks = true // there are none without the option
		return nil
	})
}

// maxText bounds a text, in bytes: the kernel has no longer paths.
const maxText = 4096

// text returns s in a form that can be printed and kept in JSON.
func text(s string) string {
	if len(s) > maxText {
		s = s[:maxText]
	}
	if utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return s
	}
	quoted := strconv.Quote(s)
	return quoted[1 : len(quoted)-1]
}
