package capture

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/arcboxlabs/arcstore/capture/criu"
)

// treeDumper dumps a process tree.
type treeDumper struct {
	path string
	work string
	opts criu.DumpOptions
}

func newTreeDumper(c *Container, path, staging string) (*treeDumper, error) {
	if err := checkTree(c.PID); err != nil {
		return nil, err
	}
	work := filepath.Join(staging, "work")
	if err := os.Mkdir(work, 0o700); err != nil {
		return nil, err
	}
	return &treeDumper{path: path, work: work, opts: criu.DumpOptions{
		PID: c.PID, LeaveRunning: c.LeaveRunning, GhostLimit: c.GhostLimit, External: c.Options.External,
		TCPEstablished: c.Options.TCPEstablished, FileLocks: c.Options.FileLocks,
		ShellJob: c.Options.ShellJob, ExtUnixSockets: c.Options.ExtUnixSockets,
	}}, nil
}

func (d *treeDumper) preDump(ctx context.Context, dir, parent string) error {
	opts := d.opts
	opts.Parent = parent
	return explain(fmt.Sprintf("process %d", opts.PID), criu.PreDump(ctx, d.path, dir, d.work, opts))
}

func (d *treeDumper) dump(ctx context.Context, dir, parent string, stopped func() error) error {
	opts := d.opts
	opts.Parent = parent
	return explain(fmt.Sprintf("process %d", opts.PID), criu.Dump(ctx, d.path, dir, d.work, opts, stopped))
}

// checkTree refuses what can never be checkpointed, in clearer words than CRIU's.
func checkTree(pid int) error {
	if pid < 0 {
		return fmt.Errorf("%w: %d is no process ID", ErrInvalid, pid)
	}
	for p := os.Getpid(); p != 0; {
		if p == pid {
			return fmt.Errorf("%w: the tree of process %d has this program in it, which cannot stop itself: start it from elsewhere", ErrInvalid, pid)
		}
		stat, err := procStat(p)
		if err != nil {
			break // a parent in another PID namespace
		}
		if p, err = strconv.Atoi(stat[1]); err != nil {
			break
		}
	}
	stat, err := procStat(pid)
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%w: there is no process %d", ErrNoProcess, pid)
	}
	if err != nil {
		return err
	}
	const kernelThread = 0x00200000 // PF_KTHREAD of Linux's include/linux/sched.h
	flags, err := strconv.ParseUint(stat[6], 10, 32)
	if err != nil {
		return fmt.Errorf("/proc/%d/stat: %w", pid, err)
	}
	switch {
	case flags&kernelThread != 0:
		return fmt.Errorf("%w: process %d is a thread of the kernel, which has nothing to checkpoint", ErrInvalid, pid)
	case stat[0] == "Z" || stat[0] == "X":
		return fmt.Errorf("%w: process %d has ended", ErrNoProcess, pid)
	}
	return nil
}

// procStat returns the fields of /proc/PID/stat from the state on.
func procStat(pid int) ([]string, error) {
	name := fmt.Sprintf("/proc/%d/stat", pid)
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	text := string(b)
	fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	if len(fields) < 7 {
		return nil, fmt.Errorf("%s: unexpected content", name)
	}
	return fields, nil
}
