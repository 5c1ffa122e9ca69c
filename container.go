package arcstore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/arcboxlabs/arcstore/manifest"
	"github.com/arcboxlabs/arcstore/restore"
)

// Checkpoint describes what a container's snapshot captured.
type Checkpoint = manifest.Checkpoint

// CheckpointOptions are choices of a checkpoint that its restore repeats.
type CheckpointOptions = manifest.CheckpointOptions

// Checkpoint returns the description of a container's snapshot, or nil where there is none.
func (r *SnapshotReader) Checkpoint(ctx context.Context) (*Checkpoint, error) {
	b, err := r.description(manifest.CheckpointStream, manifest.MaxCheckpointSize)
	if b == nil || err != nil {
		return nil, err
	}
	return manifest.DecodeCheckpoint(b)
}

// needCheckpoint is Checkpoint where there must be one.
func (r *SnapshotReader) needCheckpoint(ctx context.Context) (*Checkpoint, error) {
	about, err := r.Checkpoint(ctx)
	if err == nil && about == nil {
		err = fmt.Errorf("arcstore: snapshot %s: %w: it is no checkpoint of processes", r.entry.ID, ErrInvalid)
	}
	return about, err
}

// RunOptions are the choices of a restore to running processes.
type RunOptions struct {
	// Runc is the ID of the container of runc's to make, from Bundle; "" restores the process tree by CRIU alone.
	Runc     string
	Bundle   string
	RuncRoot string // runc's --root; "" for its default
	// PIDFile is a file for the PID of the root of the tree; "" for none.
	PIDFile string
	// Cgroup is a cgroup, as a path below the cgroup mounts, for a tree that is restored without runc: it is
	// made where it is not there. "" leaves the tree in this process's.
	Cgroup string
	// IgnoreCompatibility tries even where Check says that it will fail.
	IgnoreCompatibility bool
	Progress            func(Progress)
}

// RunReport says what a restore to running processes did.
type RunReport struct {
	Snapshot  string        `json:"snapshot"`
	PID       int           `json:"pid"` // of the root of the tree
	Container string        `json:"container,omitempty"`
	Processes int           `json:"processes"`
	Bytes     int64         `json:"bytes"` // of CRIU's images
	Duration  time.Duration `json:"duration_ns"`
}

// Run brings the processes of a container's snapshot back to life. They run
// on their own, in a session of their own. It needs root, CRIU and no lock. Where it fails, no process stays behind.
func (m *Manager) Run(ctx context.Context, ref string, opts *RunOptions) (_ *RunReport, err error) {
	if opts == nil {
		opts = &RunOptions{}
	}
	if (opts.Runc == "") != (opts.Bundle == "") {
		return nil, fmt.Errorf("arcstore: %w: a container of runc's needs both an ID and a bundle", ErrInvalid)
	}
	start := time.Now()
	r, err := m.OpenSnapshot(ctx, ref)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	about, err := r.needCheckpoint(ctx)
	if err != nil {
		return nil, err
	}
	if !opts.IgnoreCompatibility {
		c, err := m.Check(ctx, r.entry.ID, nil)
		if err == nil {
			err = c.Fatal()
		}
		if err != nil {
			return nil, err
		}
	}
	staging, err := os.MkdirTemp("", "arcstore-run-")
	if err != nil {
		return nil, fmt.Errorf("arcstore: no directory for CRIU's images can be made in %s ($TMPDIR): %w", os.TempDir(), errors.Unwrap(err))
	}
	defer func() { err = errors.Join(err, os.RemoveAll(staging)) }()
	done, pid, err := restore.Run(ctx, r.table, r.chunks, about, staging, restore.RunOptions{
		ChunkSize: m.ChunkSize(), Runc: opts.Runc, Bundle: opts.Bundle, RuncRoot: opts.RuncRoot, PIDFile: opts.PIDFile, Cgroup: opts.Cgroup,
		Progress: func(done, total int64) {
			if opts.Progress != nil {
				opts.Progress(Progress{Phase: "restore", Done: done, Total: total})
			}
		},
	})
	if errors.Is(err, restore.ErrContainer) || errors.Is(err, restore.ErrTree) {
		err = fmt.Errorf("%w: %w", ErrOtherKind, err)
	}
	if err != nil {
		return nil, fmt.Errorf("arcstore: snapshot %s: %w", r.entry.ID, err)
	}
	return &RunReport{Snapshot: r.entry.ID, PID: pid, Container: opts.Runc, Processes: len(about.Processes),
		Bytes: done.Size, Duration: time.Since(start)}, nil
}
