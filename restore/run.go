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
func Run(ctx context.Context, t *manifest.Table, src Source, about *manifest.Checkpoint, staging string, opts RunOptions) (Restored, int, error) {
	if _, err := t.Stream(manifest.CRIUPrefix + "inventory.img"); errors.Is(err, manifest.ErrNotFound) {
		return Restored{}, 0, fmt.Errorf("restore: %w: it has no images of CRIU's", ErrNotCheckpoint)
	} else if err != nil {
		return Restored{}, 0, err
	}
	if os.Geteuid() != 0 {
		return Restored{}, 0, fmt.Errorf("restore: %w: bringing processes back needs root", os.ErrPermission)
	}
	path, _, err := criu.Usable(ctx)
	if err != nil {
		return Restored{}, 0, fmt.Errorf("restore: %w", err)
	}
	work := filepath.Join(staging, "work")
	if err := os.Mkdir(work, 0o700); err != nil {
		return Restored{}, 0, fmt.Errorf("restore: %w", err)
	}
	done, err := Dir(ctx, t, src, staging, DirOptions{ChunkSize: opts.ChunkSize, Prefix: manifest.CRIUPrefix, Progress: opts.Progress})
	if err != nil {
		return done, 0, err
	}
	images := filepath.Join(staging, strings.TrimSuffix(manifest.CRIUPrefix, "/"))
	var pid int
	if opts.Runc != "" {
		pid, err = runRunc(ctx, path, images, work, about, opts)
	} else {
		pid, err = runTree(ctx, path, images, work, about, opts)
	}
	if err != nil {
		err = fmt.Errorf("restore: %w", err)
	}
	return done, pid, err
}

// runTree restores a process tree by CRIU alone.
func runTree(ctx context.Context, path, images, work string, about *manifest.Checkpoint, opts RunOptions) (int, error) {
	// In a PID namespace of its own, a tree's root has the ID 1; otherwise its IDs are those of this machine.
	if len(about.Processes) > 0 && about.Processes[0].PID != 1 {
		var pids []int
		for _, p := range about.Processes {
			pids = append(pids, p.PID)
		}
		if err := criu.AwaitPIDs(ctx, pids); err != nil {
			return 0, err
		}
	}
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
