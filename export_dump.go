package arcstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/arcboxlabs/arcstore/capture"
)

// DumpReport says what ExportDump or ExportCloudHypervisor did.
type DumpReport struct {
	Snapshot string        `json:"snapshot"`
	Bytes    int64         `json:"bytes"` // of the file, or files, holes included
	Duration time.Duration `json:"duration_ns"`
}

// ExportDump writes the dump that a snapshot was taken of to w, byte for byte, but for pages of mapped-ram that the file has and does not
// use: w must read as zeros before. kind is capture.KindELFCore or KindMappedRAM. The size of what it wrote is in the report: where the dump ends
// with zeros, w may be shorter.
func (m *Manager) ExportDump(ctx context.Context, ref, kind string, w io.WriterAt, opts *RestoreOptions) (*DumpReport, error) {
	start := time.Now()
	r, err := m.OpenSnapshot(ctx, ref)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	b, err := r.description(capture.DumpLayoutStream, capture.MaxDumpLayout)
	if err != nil {
		return nil, err
	}
	layout := new(capture.DumpLayout)
	if b != nil {
		if layout, err = capture.DecodeDumpLayout(b); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
		}
	}
	if layout.Kind != kind {
		return nil, fmt.Errorf("arcstore: snapshot %s: %w: it was not taken of a file of the kind %s: restore --output gives what it has", r.entry.ID, ErrOtherKind, kind)
	}
	if _, err := m.RestoreTo(ctx, r.entry.ID, memoryStream, scattered{w, layout.Memory}, false, opts); err != nil {
		return nil, err
	}
	if rest := layout.Rest(); len(rest) > 0 {
		if _, err := m.RestoreTo(ctx, r.entry.ID, capture.DumpRest, scattered{w, rest}, false, nil); err != nil {
			return nil, err
		}
	}
	return &DumpReport{Snapshot: r.entry.ID, Bytes: layout.Size, Duration: time.Since(start)}, nil
}

// memoryStream is the name of the stream that is a VM's memory.
const memoryStream = "memory"

// scattered puts what is written in one piece where it belongs; what is in no part is left out.
type scattered struct {
	w     io.WriterAt
	parts []capture.DumpRange
}

// WriteAt implements io.WriterAt.
func (s scattered) WriteAt(p []byte, off int64) (int, error) {
	for _, part := range s.parts {
		from, to := max(off, part.At), min(off+int64(len(p)), part.At+part.Length)
		if from >= to {
			continue
		}
		if _, err := s.w.WriteAt(p[from-off:to-off], part.Offset+from-part.At); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

// ExportCloudHypervisor writes the directory of Cloud Hypervisor's that a snapshot was taken of, or that it would have been of a guest that was handed
// over; dir must not be there. Where it fails nothing stays.
func (m *Manager) ExportCloudHypervisor(ctx context.Context, ref, dir string, opts *RestoreOptions) (_ *DumpReport, err error) {
	start := time.Now()
	r, err := m.OpenSnapshot(ctx, ref)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	streams, err := r.Streams(ctx)
	if err != nil {
		return nil, err
	}
	files := make(map[string]string) // streams by file
	for _, s := range streams {
		if name, ok := strings.CutPrefix(s.Name, capture.CloudHypervisorPrefix); ok && filepath.IsLocal(name) && name != capture.CloudHypervisorMigration {
			files[name] = s.Name
		}
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("arcstore: snapshot %s: %w: it was not taken of a snapshot of Cloud Hypervisor's: restore --output gives what it has", r.entry.ID, ErrOtherKind)
	}
	if files["config.json"] == "" {
		return nil, fmt.Errorf("arcstore: snapshot %s: %w: its memory does not lie as in a directory of Cloud Hypervisor's: offload restore hands it over", r.entry.ID, ErrOtherKind)
	}
	files[capture.CloudHypervisorMemory] = memoryStream
	if err := os.Mkdir(dir, 0o700); err != nil {
		if errors.Is(err, os.ErrExist) {
			err = fmt.Errorf("%s: %w", dir, ErrExists)
		}
		return nil, fmt.Errorf("arcstore: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	report := &DumpReport{Snapshot: r.entry.ID}
	for name, stream := range files {
		n, err := m.restoreFile(ctx, r.entry.ID, stream, filepath.Join(dir, name), opts)
		if err != nil {
			return nil, err
		}
		report.Bytes += n
	}
	report.Duration = time.Since(start)
	return report, nil
}

// restoreFile writes a stream as a new, sparse file.
func (m *Manager) restoreFile(ctx context.Context, id, stream, name string, opts *RestoreOptions) (n int64, err error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return 0, fmt.Errorf("arcstore: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	report, err := m.RestoreTo(ctx, id, stream, f, false, opts)
	if err != nil {
		return 0, err
	}
	return report.Bytes, f.Truncate(report.Bytes)
}

// createFromDump takes a snapshot of a file, or directory, that another tool wrote.
func (m *Manager) createFromDump(ctx context.Context, target string, open func() (dumpSource, error), opts *CreateOptions) (_ *Snapshot, err error) {
	d, err := open()
	if err != nil {
		return nil, wrapCreate(err)
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	return m.CreateVM(ctx, target, d.VM(), opts)
}

// dumpSource is an open dump.
type dumpSource interface {
	VM() *VM
	Close() error
}
