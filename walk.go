package arcstore

import (
	"context"
	"errors"

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

// liveOf returns what the store must keep for manifests: where one is damaged,
// what can be read of it, and the packs that hints names for it. gaps is filled, by walks, with those that are.
func (m *Manager) liveOf(digests []manifest.Digest, hints func(group int) []string) (live store.Live, gaps map[int]bool) {
	w := &walk{m: m, digests: digests, gaps: make(map[int]bool)}
	live = store.Live{Groups: len(digests), Walk: w.visit, Keep: func() (packs []store.PackID, all bool) {
		for group := range w.gaps {
			names := hints(group)
			if len(names) == 0 {
				return nil, true
			}
			packs = append(packs, packIDs(names)...)
		}
		return packs, false
	}}
	return live, w.gaps
}

// walk walks over the page tables of manifests, for one goroutine.
type walk struct {
	m       *Manager
	digests []manifest.Digest
	gaps    map[int]bool // of which not all can be read
}

func (w *walk) visit(ctx context.Context, group int, visit func([]ChunkID) error) error {
	t, err := w.m.manifests.OpenDamaged(ctx, w.digests[group])
	if isDamaged(err) {
		w.gaps[group] = true
		return nil
	}
	if err != nil {
		return wrapManifest(err)
	}
	defer t.Close()
	return salvageEach(ctx, t, func(_ string, gap manifest.Gap) { w.gaps[group] = true }, visit)
}

// isDamaged reports whether err says that a file of the page tables is damaged or missing.
func isDamaged(err error) bool {
	return errors.Is(err, manifest.ErrCorrupt) || errors.Is(err, manifest.ErrNotFound)
}

// salvageEach calls visit with what can be read of all page tables, holes
// included, and lost with the rest.
func salvageEach(ctx context.Context, t *manifest.Table, lost func(stream string, gap manifest.Gap), visit func(ids []ChunkID) error) error {
	buf := make([]ChunkID, tableStep)
	for _, s := range t.Streams() {
		st, err := t.Stream(s.Name)
		if err != nil {
			return err
		}
		for first := int64(0); first < st.Len(); first += tableStep {
			if err := ctx.Err(); err != nil {
				return err
			}
			part := buf[:min(tableStep, st.Len()-first)]
			gaps, err := st.Salvage(first, part)
			if err != nil {
				return err
			}
			for _, g := range gaps {
				lost(s.Name, g)
			}
			if err := visit(part); err != nil {
				return err
			}
		}
	}
	return nil
}
