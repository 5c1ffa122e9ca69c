package arcstore

import (
	"context"

	"github.com/arcboxlabs/arcstore/chunker"
	"github.com/arcboxlabs/arcstore/manifest"
	"github.com/arcboxlabs/arcstore/store"
)

// ChunkID names a chunk by its content; the zero ID is a hole.
type ChunkID = chunker.ID

// tableStep is how many entries of a page table are looked at at once.
const tableStep = 4096

// eachEntry calls visit with a stream's entries, in order. ids is valid until visit returns.
func eachEntry(ctx context.Context, t *manifest.StreamTable, visit func(first int64, ids []ChunkID) error) error {
	buf := make([]ChunkID, min(tableStep, t.Len()))
	for first := int64(0); first < t.Len(); first += int64(len(buf)) {
		if err := ctx.Err(); err != nil {
			return err
		}
		part := buf[:min(int64(len(buf)), t.Len()-first)]
		if err := t.Lookup(first, part); err != nil {
			return err
		}
		if err := visit(first, part); err != nil {
			return err
		}
	}
	return nil
}

// chunkLength returns the length in bytes of a chunk of a stream.
func chunkLength(t *manifest.StreamTable, chunk int64, chunkSize int) int64 {
	return min(int64(chunkSize), t.Size()-chunk*int64(chunkSize))
}

// liveOf returns what the store must keep for manifests.
func (m *Manager) liveOf(digests []manifest.Digest) store.Live {
	return store.Live{Groups: len(digests), Walk: func(ctx context.Context, group int, visit func([]ChunkID) error) error {
		t, err := m.manifests.Open(ctx, digests[group])
		if err != nil {
			return wrapManifest(err)
		}
		defer t.Close()
		for _, s := range t.Streams() {
			st, err := t.Stream(s.Name)
			if err != nil {
				return err
			}
			if err := eachEntry(ctx, st, func(_ int64, ids []ChunkID) error { return visit(ids) }); err != nil {
				return err
			}
		}
		return nil
	}}
}
