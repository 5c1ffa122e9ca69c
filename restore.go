package arcstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/arcboxlabs/arcstore/manifest"
	"github.com/arcboxlabs/arcstore/restore"
	"github.com/arcboxlabs/arcstore/store"
)

// Restore writes the streams of a snapshot as sparse files under dir, each
// under its name. It needs no lock and no index. It refuses files that exist, unless opts.Force.
func (m *Manager) Restore(ctx context.Context, ref, dir string, opts *RestoreOptions) (*RestoreReport, error) {
	if opts == nil {
		opts = &RestoreOptions{}
	}
	return m.restore(ctx, ref, opts, func(r *SnapshotReader, lost lostRanges) (restore.Restored, error) {
		if opts.Stream != "" {
			if _, err := r.streamTable(opts.Stream); err != nil {
				return restore.Restored{}, err
			}
		}
		return restore.Dir(ctx, r.table, r.chunks, dir, restore.DirOptions{
			ChunkSize: m.ChunkSize(), Force: opts.Force, Stream: opts.Stream, Lost: lost,
			Progress: func(done, total int64) {
				if opts.Progress != nil {
					opts.Progress(Progress{Phase: "restore", Done: done, Total: total})
				}
			},
		})
	})
}

// RestoreStream writes one stream of a snapshot to w, in order, zeros included.
func (m *Manager) RestoreStream(ctx context.Context, ref, stream string, w io.Writer, opts *RestoreOptions) (*RestoreReport, error) {
	return m.restoreStream(ctx, ref, stream, opts, func(t *manifest.StreamTable, src restore.Source, o restore.Options) (int64, error) {
		return restore.Sequential(ctx, t, src, w, o)
	})
}

// RestoreTo writes one stream of a snapshot to w, such as mapped guest
// memory, in any order and from several goroutines at once. With zeros, holes are written
// too; without, w must read as zeros already.
func (m *Manager) RestoreTo(ctx context.Context, ref, stream string, w io.WriterAt, zeros bool, opts *RestoreOptions) (*RestoreReport, error) {
	return m.restoreStream(ctx, ref, stream, opts, func(t *manifest.StreamTable, src restore.Source, o restore.Options) (int64, error) {
		o.Zeros = zeros
		return restore.Stream(ctx, t, src, w, o)
	})
}

func (m *Manager) restoreStream(ctx context.Context, ref, stream string, opts *RestoreOptions,
	run func(*manifest.StreamTable, restore.Source, restore.Options) (int64, error)) (*RestoreReport, error) {
	if opts == nil {
		opts = &RestoreOptions{}
	}
	return m.restore(ctx, ref, opts, func(r *SnapshotReader, lost lostRanges) (restore.Restored, error) {
		t, err := r.streamTable(stream)
		if err != nil {
			return restore.Restored{}, err
		}
		done := int64(0)
		o := restore.Options{ChunkSize: m.ChunkSize(), Progress: func(n int64) {
			done += n
			if opts.Progress != nil {
				opts.Progress(Progress{Phase: "restore", Done: done, Total: t.Size()})
			}
		}}
		if lost != nil {
			o.Lost = func(r restore.Range) { lost(stream, r) }
		}
		data, err := run(t, r.chunks, o)
		return restore.Restored{Streams: 1, Size: t.Size(), Data: data}, err
	})
}

// restore opens a snapshot for run and reports on it.
func (m *Manager) restore(ctx context.Context, ref string, opts *RestoreOptions, run func(*SnapshotReader, lostRanges) (restore.Restored, error)) (report *RestoreReport, err error) {
	defer ended(m, "restore", ref, time.Now(), &report, &err)
	start := time.Now()
	open := m.manifests.Open
	if opts.AllowDamaged {
		open = m.manifests.OpenDamaged
	}
	r, err := m.openSnapshot(ctx, ref, open)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	var missing []Missing
	var lost lostRanges
	if opts.AllowDamaged {
		lost = func(stream string, r restore.Range) {
			missing = append(missing, Missing{Stream: stream, Offset: r.Offset, Length: r.Length, Why: r.Why.Error()})
		}
	}
	done, err := run(r, lost)
	if err != nil {
		switch {
		case errors.Is(err, restore.ErrExists):
			err = fmt.Errorf("%w: %w", ErrExists, err)
		case errors.Is(err, store.ErrNotFound):
			// Not damage, if somebody deleted the snapshot while it was read.
			if _, gerr := m.Get(ctx, r.entry.ID); errors.Is(gerr, ErrNotFound) {
				err = fmt.Errorf("arcstore: %w: %s was deleted while it was restored", ErrNotFound, r.entry.ID)
			}
		}
		return nil, err
	}
	frames, _ := r.chunks.FramesRead()
	return &RestoreReport{Snapshot: r.entry.ID, Streams: done.Streams, Bytes: done.Size, BytesData: done.Data,
		FramesRead: frames, Missing: joinMissing(missing), Duration: time.Since(start)}, nil
}

// lostRanges is told what cannot be had of a stream; nil where that is an error.
type lostRanges = func(stream string, r restore.Range)

// joinMissing sorts ranges and joins those that follow each other and are missing for one reason.
func joinMissing(all []Missing) []Missing {
	slices.SortStableFunc(all, func(a, b Missing) int {
		return cmp.Or(cmp.Compare(a.Stream, b.Stream), cmp.Compare(a.Offset, b.Offset))
	})
	var out []Missing
	for _, x := range all {
		if n := len(out); n > 0 && out[n-1].Stream == x.Stream && out[n-1].Why == x.Why && out[n-1].Offset+out[n-1].Length == x.Offset {
			out[n-1].Length += x.Length
			continue
		}
		out = append(out, x)
	}
	return out
}

// SnapshotReader reads parts of one snapshot. Safe for concurrent use.
type SnapshotReader struct {
	entry     *Snapshot
	table     *manifest.Table
	chunks    *store.Fetcher
	chunkSize int
}

// OpenSnapshot opens a snapshot for reading parts of it. The reader must be closed.
func (m *Manager) OpenSnapshot(ctx context.Context, ref string) (*SnapshotReader, error) {
	return m.openSnapshot(ctx, ref, m.manifests.Open)
}

func (m *Manager) openSnapshot(ctx context.Context, ref string, open func(context.Context, manifest.Digest) (*manifest.Table, error)) (*SnapshotReader, error) {
	e, err := m.getComplete(ctx, ref)
	if err != nil {
		return nil, err
	}
	t, err := open(ctx, e.Manifest)
	if err != nil {
		return nil, fmt.Errorf("arcstore: snapshot %s: its page tables: %w", e.ID, wrapManifest(err))
	}
	return &SnapshotReader{entry: e, table: t, chunks: m.store.NewFetcher(packIDs(e.Packs)), chunkSize: m.ChunkSize()}, nil
}

// openTable opens a snapshot's page tables.
func (m *Manager) openTable(ctx context.Context, e *Snapshot) (*manifest.Table, error) {
	t, err := m.manifests.Open(ctx, e.Manifest)
	if err != nil {
		return nil, fmt.Errorf("arcstore: snapshot %s: %w", e.ID, wrapManifest(err))
	}
	return t, nil
}

// Close lets go of the snapshot's files. No read may be running.
func (r *SnapshotReader) Close() error {
	r.chunks.Close()
	return r.table.Close()
}

// StreamInfo describes one stream of a snapshot.
type StreamInfo struct {
	Name string `json:"name"`
	Size int64  `json:"size"` // bytes
	Data int64  `json:"data"` // bytes that are not holes
}

// Streams lists the snapshot's streams; it walks their page tables.
func (r *SnapshotReader) Streams(ctx context.Context) ([]StreamInfo, error) {
	var infos []StreamInfo
	for _, s := range r.table.Streams() {
		info := StreamInfo{Name: s.Name, Size: s.Size}
		t, err := r.table.Stream(s.Name)
		if err != nil {
			return nil, err
		}
		err = eachEntry(ctx, t, func(first int64, ids []ChunkID) error {
			for i := range ids {
				if !ids[i].IsHole() {
					info.Data += chunkLength(t, first+int64(i), r.chunkSize)
				}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		infos = append(infos, info)
	}
	return infos, nil
}

// streamTable returns the page table of a stream.
func (r *SnapshotReader) streamTable(name string) (*manifest.StreamTable, error) {
	t, err := r.table.Stream(name)
	if errors.Is(err, manifest.ErrNotFound) {
		return nil, fmt.Errorf("arcstore: snapshot %s: %w: %q", r.entry.ID, ErrNoStream, name)
	}
	return t, err
}

// StreamReader reads one stream of a snapshot: an io.ReaderAt with a Size.
type StreamReader = restore.Reader

// Stream opens one stream. It lives as long as the snapshot's reader.
func (r *SnapshotReader) Stream(name string) (*StreamReader, error) {
	t, err := r.streamTable(name)
	if err != nil {
		return nil, err
	}
	return restore.NewReader(t, r.chunks, r.chunkSize), nil
}

// Machine returns the machine description, or nil where none was stored.
func (r *SnapshotReader) Machine(ctx context.Context) (*Machine, error) {
	b, err := r.description(manifest.MachineStream, manifest.MaxMachineSize)
	if b == nil || err != nil {
		return nil, err
	}
	return manifest.DecodeMachine(b)
}

// description reads a small stream as a whole; nil where there is none.
func (r *SnapshotReader) description(name string, limit int64) ([]byte, error) {
	s, err := r.Stream(name)
	if errors.Is(err, ErrNoStream) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if s.Size() > limit {
		return nil, fmt.Errorf("arcstore: snapshot %s: %w: %s has %d bytes", r.entry.ID, ErrCorrupt, name, s.Size())
	}
	b := make([]byte, s.Size())
	if _, err := s.ReadAt(b, 0); err != nil {
		return nil, err
	}
	return b, nil
}
