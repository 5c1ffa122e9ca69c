package arcstore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/arcboxlabs/arcstore/capture/arcbox"
	"github.com/arcboxlabs/arcstore/manifest"
	"github.com/arcboxlabs/arcstore/restore"
	"github.com/arcboxlabs/arcstore/store/disk"
)

// ArcboxReport says what ExportArcbox did.
type ArcboxReport struct {
	Snapshot string `json:"snapshot"`
	Dir      string `json:"dir"`
	Bytes    int64  `json:"bytes"` // of the streams, holes included
	// Foreign says that the state of vCPUs and devices is not in the predecessor's form, and so in files beside that it does not read.
	Foreign  bool          `json:"foreign"`
	Duration time.Duration `json:"duration_ns"`
}

// ExportArcbox writes a snapshot as a directory of arcbox-snapshot's, arcstore's predecessor, below dir and named after the snapshot's
// ID, which must not be there yet. What was imported from one comes out as it was, but for its compression: memory is a sparse file.
func (m *Manager) ExportArcbox(ctx context.Context, ref, dir string, opts *RestoreOptions) (*ArcboxReport, error) {
	if opts == nil {
		opts = &RestoreOptions{}
	}
	start := time.Now()
	r, err := m.OpenSnapshot(ctx, ref)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	x := &arcboxExport{m: m, r: r, opts: opts, dir: filepath.Join(dir, r.entry.ID)}
	if _, err := os.Lstat(x.dir); err == nil {
		return nil, fmt.Errorf("arcstore: export: %s: %w", x.dir, ErrExists)
	}
	x.partial = x.dir + ".partial"
	if err := os.RemoveAll(x.partial); err != nil { // of one that was killed
		return nil, fmt.Errorf("arcstore: export: %w", err)
	}
	if err := x.write(ctx); err != nil {
		os.RemoveAll(x.partial)
		return nil, err
	}
	return &ArcboxReport{Snapshot: r.entry.ID, Dir: x.dir, Bytes: x.bytes, Foreign: x.foreign, Duration: time.Since(start)}, nil
}

type arcboxExport struct {
	m            *Manager
	r            *SnapshotReader
	opts         *RestoreOptions
	dir, partial string
	bytes        int64
	foreign      bool
}

func (x *arcboxExport) write(ctx context.Context) error {
	if err := x.streams(ctx); err != nil {
		return err
	}
	var err error
	if x.r.entry.TargetType == manifest.Container {
		err = x.checkpoint(ctx)
	} else {
		err = x.machine(ctx)
	}
	if err == nil {
		err = x.info()
	}
	if err == nil {
		err = os.Rename(x.partial, x.dir)
	}
	if err != nil {
		return fmt.Errorf("arcstore: export: %w", err)
	}
	return nil
}

// streams writes all streams as files.
func (x *arcboxExport) streams(ctx context.Context) error {
	done, err := restore.Dir(ctx, x.r.table, x.r.chunks, x.partial, restore.DirOptions{ChunkSize: x.m.ChunkSize(), Progress: func(done, total int64) {
		if x.opts.Progress != nil {
			x.opts.Progress(Progress{Phase: "export", Done: done, Total: total})
		}
	}})
	x.bytes = done.Size
	if errors.Is(err, manifest.ErrNotFound) {
		err = fmt.Errorf("%w: %w", ErrCorrupt, err) // a stream that the snapshot itself names
	}
	return err
}

// machine names the memory as the predecessor does, and says how the machine is.
func (x *arcboxExport) machine(ctx context.Context) error {
	if err := os.Rename(filepath.Join(x.partial, manifest.MemoryStream), filepath.Join(x.partial, arcbox.MemoryFile)); err != nil {
		return err
	}
	state := filepath.Join(x.partial, arcbox.StateFile)
	raw, err := os.ReadFile(state)
	if err == nil {
		if raw, err = arcbox.Uncompressed(raw); err == nil {
			err = disk.WriteFile(disk.OS, state, raw, false)
		}
		return err
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	s, err := x.newState(ctx)
	if err != nil {
		return err
	}
	return x.json(arcbox.StateFile, s)
}

// newState describes a machine that is not the predecessor's.
func (x *arcboxExport) newState(ctx context.Context) (*arcbox.State, error) {
	memory, err := x.r.Stream(manifest.MemoryStream)
	if err != nil {
		return nil, err
	}
	x.foreign = true
	s := &arcbox.State{Version: 1, Arch: "X86_64", VCPUs: []arcbox.VCPU{}, Devices: []arcbox.Device{}, TotalMemory: uint64(memory.Size()),
		Regions: []arcbox.Region{{Size: uint64(memory.Size())}}}
	machine, err := x.r.Machine(ctx)
	if err != nil || machine == nil {
		return s, err
	}
	for name, architecture := range architectures {
		if architecture == machine.Architecture {
			s.Arch = name
		}
	}
	s.Regions = nil
	for _, r := range machine.Regions {
		s.Regions = append(s.Regions, arcbox.Region{GuestAddress: r.GuestAddress, Size: uint64(r.Size), ReadOnly: r.ReadOnly, FileOffset: uint64(r.Offset)})
	}
	return s, nil
}

// checkpoint says what the container is.
func (x *arcboxExport) checkpoint(ctx context.Context) error {
	about, err := x.r.needCheckpoint(ctx)
	if err != nil {
		return err
	}
	c := arcbox.Checkpoint{TargetID: x.r.entry.TargetID, CapturedAt: x.r.entry.Created, ProcessTree: []uint32{}, OpenFiles: []string{}, Network: json.RawMessage("null")}
	for _, p := range about.Processes {
		c.ProcessTree = append(c.ProcessTree, uint32(p.PID))
	}
	return x.json(arcbox.CheckpointFile, c)
}

// info writes snapshot.json, which makes the directory a snapshot.
func (x *arcboxExport) info() error {
	e := x.r.entry
	i := arcbox.Info{ID: e.ID, Name: e.Name, TargetID: e.TargetID, TargetType: arcbox.VM, Created: e.Created, Size: uint64(x.bytes), Labels: e.Labels, State: arcbox.Ready}
	if e.TargetType == manifest.Container {
		i.TargetType = arcbox.Container
	}
	if i.Labels == nil {
		i.Labels = map[string]string{}
	}
	if i.Name == "" {
		i.Name = "snapshot-" + e.ID[:8] // as the predecessor calls those without one
	}
	if e.Description != "" {
		i.Description = &e.Description
	}
	if e.Parent != "" {
		i.Parent = &e.Parent
	}
	return x.json(arcbox.InfoFile, i)
}

func (x *arcboxExport) json(name string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return disk.WriteFile(disk.OS, filepath.Join(x.partial, name), append(b, '\n'), false)
}
