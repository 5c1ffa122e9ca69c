package restore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/arcboxlabs/arcstore/capture/criu"
	"github.com/arcboxlabs/arcstore/manifest"
)

// ErrNotCheckpoint is wrapped by the error for a snapshot that no processes can be restored from.
var ErrNotCheckpoint = errors.New("not a checkpoint of processes")

// The errors for a snapshot that comes back in another way wrap these.
var (
	ErrContainer = errors.New("it is a container of a runtime's, and comes back as one alone")
	ErrTree      = errors.New("it is a process tree, and no container of runc's")
)

// RunOptions are the choices of a restore to running processes.
type RunOptions struct {
	ChunkSize int
	// Runc is the ID of the container of runc's that is made; "" restores
	// the process tree by CRIU alone. Bundle is the container's bundle, and RuncRoot runc's --root.
	Runc     string
	Bundle   string
	RuncRoot string
	// PIDFile is a file for the PID of the root; "" for none.
	PIDFile string
	// Cgroup is a cgroup for a tree that is restored without runc, made
	// where it is not there; "" leaves it in this process's.
	Cgroup string
	// Progress is told the bytes done.
	Progress func(done, total int64)
}

// Run brings the processes of a checkpoint back to life: its images are written to
// staging, an empty directory that the caller removes afterwards, and
// restored from there. It returns what was written, and the PID of the root
// of the tree, which runs on its own. Where it fails, no process stays.
func Run(ctx context.Context, t *manifest.Table, src Source, about *manifest.Checkpoint, staging string, opts RunOptions) (done Restored, pid int, err error) {
	path, err := prepare(ctx, t, about, opts)
	if err != nil {
		return done, 0, fmt.Errorf("restore: %w", err)
	}
	if opts.PIDFile != "" {
		giveUp, err := claimPIDFile(opts.PIDFile)
		if err != nil {
			return done, 0, fmt.Errorf("restore: %w", err)
		}
		defer func() {
			if pid == 0 {
				giveUp()
			}
		}()
	}
	work := filepath.Join(staging, "work")
	if err := os.Mkdir(work, 0o700); err != nil {
		return done, 0, fmt.Errorf("restore: %w", err)
	}
	done, err = Dir(ctx, t, src, staging, DirOptions{ChunkSize: opts.ChunkSize, Prefix: manifest.CRIUPrefix, Progress: opts.Progress})
	if err != nil {
		return done, 0, err
	}
	images := filepath.Join(staging, strings.TrimSuffix(manifest.CRIUPrefix, "/"))
	if opts.Runc != "" {
		pid, err = runRunc(ctx, path, images, work, about, opts)
	} else {
		pid, err = runTree(ctx, path, images, work, about, opts)
	}
	if err != nil {
		err = fmt.Errorf("restore: %w", explain(about, err))
	}
	return done, pid, err
}

// prepare finds what is in the way of a restore, before much is done for it, and CRIU.
func prepare(ctx context.Context, t *manifest.Table, about *manifest.Checkpoint, opts RunOptions) (path string, err error) {
	if _, err := t.Stream(manifest.CRIUPrefix + "inventory.img"); errors.Is(err, manifest.ErrNotFound) {
		return "", fmt.Errorf("%w: it has no images of CRIU's", ErrNotCheckpoint)
	} else if err != nil {
		return "", err
	}
	switch {
	case opts.Runc == "" && about.OfRuntime() && about.OwnPIDs():
		return "", ErrContainer
	case opts.Runc != "" && !about.OfRuntime() && !about.OwnPIDs():
		return "", ErrTree
	case os.Geteuid() != 0:
		return "", fmt.Errorf("%w: bringing processes back needs root", os.ErrPermission)
	}
	if path, _, err = criu.Usable(ctx); err != nil {
		return "", err
	}
	if opts.Runc != "" {
		return path, checkRunc(ctx, opts)
	}
	if about.OwnPIDs() {
		return path, nil
	}
	var pids []int
	for _, p := range about.Processes {
		pids = append(pids, p.PID)
	}
	return path, criu.AwaitPIDs(ctx, pids)
}

// runTree restores a process tree by CRIU alone.
func runTree(ctx context.Context, path, images, work string, about *manifest.Checkpoint, opts RunOptions) (int, error) {
	o := about.Options
	pid, err := criu.Restore(ctx, path, images, work, criu.RestoreOptions{
		TCPEstablished: o.TCPEstablished, FileLocks: o.FileLocks, ShellJob: o.ShellJob,
		ExtUnixSockets: o.ExtUnixSockets, External: o.External, Cgroup: opts.Cgroup,
	})
	if err != nil {
		return 0, err
	}
	if opts.PIDFile != "" {
		if err := os.WriteFile(opts.PIDFile, []byte(strconv.Itoa(pid)), 0o644); err != nil {
			return pid, fmt.Errorf("the processes run, with the root's PID %d, but: %w", pid, err)
		}
	}
	return pid, nil
}
