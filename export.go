package arcstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/arcboxlabs/arcstore/manifest"
	"github.com/arcboxlabs/arcstore/restore"
)

// ExportArchive writes a container's snapshot to w as a tar archive of the
// kind that podman container checkpoint --export makes. One that was taken of
// such an archive is, byte for byte, that archive, uncompressed.
func (m *Manager) ExportArchive(ctx context.Context, ref string, w io.Writer, opts *RestoreOptions) (*RestoreReport, error) {
	if opts == nil {
		opts = &RestoreOptions{}
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
	done, err := restore.Archive(ctx, r.table, r.chunks, about, w, restore.ArchiveOptions{
		ChunkSize: m.ChunkSize(), ID: r.entry.ID, Created: r.entry.Created,
		Progress: func(done, total int64) {
			if opts.Progress != nil {
				opts.Progress(Progress{Phase: "export", Done: done, Total: total})
			}
		},
	})
	if errors.Is(err, manifest.ErrNotFound) {
		err = fmt.Errorf("%w: %w", ErrCorrupt, err) // a stream that the snapshot itself names
	}
	if err != nil {
		return nil, err
	}
	frames, _ := r.chunks.FramesRead()
	return &RestoreReport{Snapshot: r.entry.ID, Streams: done.Streams, Bytes: done.Size, BytesData: done.Data,
		FramesRead: frames, Duration: time.Since(start)}, nil
}
