package capture

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
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
	if err := checkTree(c.PID, c.Options.ShellJob); err != nil {
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
func checkTree(pid int, shellJob bool) error {
	if pid < 0 {
		return fmt.Errorf("%w: %d is no process ID", ErrInvalid, pid)
	}
	own := lineage(os.Getpid())
	if slices.Contains(own, pid) {
		return fmt.Errorf("%w: the tree of process %d has this program in it, which cannot stop itself: start it from elsewhere", ErrInvalid, pid)
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
		return fmt.Errorf("%w: process %d is a thread of the kernel, which has nothing to checkpoint", ErrNoProcess, pid)
	case stat[0] == "Z" || stat[0] == "X":
		return fmt.Errorf("%w: process %d has ended", ErrNoProcess, pid)
	}
	if leader := leaderOf(pid); leader != pid {
		return fmt.Errorf("%w: %d is a thread of process %d: give that ID", ErrInvalid, pid, leader)
	}
	// CRIU takes a tree whose root leads no session only as a terminal's job.
	session, err := strconv.Atoi(stat[3])
	if err != nil {
		return fmt.Errorf("/proc/%d/stat: %w", pid, err)
	}
	if session == pid || shellJob {
		return nil
	}
	if terminal := stat[4] != "0"; !terminal && !slices.Contains(own, session) && slices.Contains(lineage(pid), session) {
		return fmt.Errorf("%w: process %d is not the root of its tree, which is process %d: give that ID", ErrInvalid, pid, session)
	}
	return &ChoiceError{Choice: ChoiceShellJob, Why: fmt.Sprintf("process %d belongs to a session that it does not lead, such as a terminal's", pid)}
}

// lineage returns a process, its parent, and so on, as far as this PID namespace has them.
func lineage(pid int) (pids []int) {
	for pid > 0 {
		pids = append(pids, pid)
		stat, err := procStat(pid)
		if err != nil {
			break
		}
		if pid, err = strconv.Atoi(stat[1]); err != nil {
			break
		}
	}
	return pids
}

// leaderOf returns the process that a thread is one of: its own ID, for a process.
func leaderOf(pid int) int {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return pid
	}
	for line := range strings.Lines(string(b)) {
		if id, ok := strings.CutPrefix(line, "Tgid:"); ok {
			if leader, err := strconv.Atoi(strings.TrimSpace(id)); err == nil {
				return leader
			}
		}
	}
	return pid
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
