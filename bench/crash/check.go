package main

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/arcboxlabs/arcstore"
	"github.com/arcboxlabs/arcstore/manifest"
	"github.com/arcboxlabs/arcstore/store"
)

// check opens the store after the child of o was killed, and compares it with the model.
func (h *harness) check(ctx context.Context, o order) error {
	m, err := arcstore.Open(ctx, h.store, nil)
	if err != nil {
		return err
	}
	defer m.Close()
	if err := h.reconcile(ctx, m, o); err != nil {
		return err
	}
	report, err := m.Verify(ctx, &arcstore.VerifyOptions{Data: true})
	if err != nil {
		return err
	}
	if len(report.Damage) > 0 {
		return fmt.Errorf("verify found damage: %+v", report.Damage)
	}
	for _, s := range h.snapshots {
		if err := compare(ctx, m, s); err != nil {
			return fmt.Errorf("snapshot %s: %w", s.id, err)
		}
	}
	return m.Close()
}

func compare(ctx context.Context, m *arcstore.Manager, s snapshot) error {
	r, err := m.OpenSnapshot(ctx, s.id)
	if err != nil {
		return err
	}
	defer r.Close()
	stream, err := r.Stream(manifest.MemoryStream)
	if err != nil {
		return err
	}
	if stream.Size() != s.memory.Size() {
		return fmt.Errorf("it has %d bytes and should have %d", stream.Size(), s.memory.Size())
	}
	return s.memory.compare(stream)
}

// reconcile finds out how far the killed operation came, as far as it may
// have come to anything, and is strict about the rest.
func (h *harness) reconcile(ctx context.Context, m *arcstore.Manager, o order) error {
	entries, err := m.List(ctx, "")
	if err != nil {
		return err
	}
	there := make(map[string]*arcstore.Snapshot)
	for _, e := range entries {
		if e.State != manifest.Ready {
			return fmt.Errorf("snapshot %s is %s after the store was opened", e.ID, e.State)
		}
		there[e.ID] = e
	}
	mayGo := make(map[string]bool)
	if o.Op == opDelete {
		for _, id := range o.IDs {
			mayGo[id] = true
		}
	}
	if o.Op == opPrune {
		for _, id := range h.prunable(o) {
			mayGo[id] = true
		}
	}
	gone := make(map[string]bool)
	for _, s := range h.snapshots {
		if there[s.id] == nil {
			if !mayGo[s.id] {
				return fmt.Errorf("snapshot %s was reported ready and is not there", s.id)
			}
			gone[s.id] = true
		}
		delete(there, s.id)
	}
	h.drop(gone)
	// What is left can only be what the killed create was about to report.
	for id, e := range there {
		if o.Op != opCreate || e.Labels[generationLabel] != o.Generation {
			return fmt.Errorf("snapshot %s is there and should not be: it was deleted, or never made", id)
		}
		h.snapshots = append(h.snapshots, snapshot{id: id, target: o.Target, memory: h.memories[o.Target]})
	}
	return nil
}

// spare is what a store may be larger than a fresh one beside the fraction, in
// bytes: manifests in layers, tables of more packs.
const spare = 256 << 10

// checkSize collects garbage and compares the size with that of a fresh store
// that holds the same snapshots, and looks for leftovers.
func (h *harness) checkSize(ctx context.Context) error {
	h.checks++
	m, err := arcstore.Open(ctx, h.store, nil)
	if err != nil {
		return err
	}
	defer m.Close()
	if _, err := m.GC(ctx, nil); err != nil {
		return err
	}
	if err := h.compareRestored(ctx, m); err != nil {
		return err
	}
	codec := m.Compression()
	if err := m.Close(); err != nil {
		return err
	}
	size, err := diskSize(h.store)
	if err != nil {
		return err
	}
	// Frames keep the codec that they were made with; the one that takes more is the measure.
	need, err := h.needed(ctx, "lz4")
	if err != nil {
		return err
	}
	if limit := need + need/20 + spare; size > limit {
		return fmt.Errorf("after gc the store takes %d bytes (its codec is %s), a fresh one with the same %d snapshots %d", size, codec, len(h.snapshots), need)
	}
	return nil
}

// compareRestored restores a snapshot over whatever an earlier, perhaps killed, restore left there.
func (h *harness) compareRestored(ctx context.Context, m *arcstore.Manager) error {
	if len(h.snapshots) == 0 {
		return nil
	}
	s := h.snapshots[h.r.IntN(len(h.snapshots))]
	dir := filepath.Join(h.dir, restoredName)
	if _, err := m.Restore(ctx, s.id, dir, &arcstore.RestoreOptions{Force: true}); err != nil {
		return err
	}
	f, err := os.Open(filepath.Join(dir, manifest.MemoryStream))
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.Size() != s.memory.Size() {
		return fmt.Errorf("snapshot %s was restored to %d bytes and should have %d", s.id, info.Size(), s.memory.Size())
	}
	if err := s.memory.compare(f); err != nil {
		return fmt.Errorf("snapshot %s, restored: %w", s.id, err)
	}
	return nil
}

// needed returns what a fresh store takes for the live snapshots.
func (h *harness) needed(ctx context.Context, codec string) (int64, error) {
	dir := filepath.Join(h.dir, "fresh")
	if err := os.RemoveAll(dir); err != nil {
		return 0, err
	}
	if err := arcstore.Init(dir, &arcstore.InitOptions{Compression: codec}); err != nil {
		return 0, err
	}
	m, err := arcstore.Open(ctx, dir, nil)
	if err != nil {
		return 0, err
	}
	defer m.Close()
	for _, s := range h.snapshots {
		if _, err := m.CreateVM(ctx, s.target, &arcstore.VM{Memory: s.memory}, nil); err != nil {
			return 0, err
		}
	}
	if err := m.Close(); err != nil {
		return 0, err
	}
	return diskSize(dir)
}

// diskSize sums the files that hold snapshots. What an interrupted writer left is an error.
func diskSize(dir string) (int64, error) {
	sum := int64(0)
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			return nil
		}
		if strings.HasPrefix(d.Name(), ".tmp-") || strings.HasSuffix(d.Name(), ".pending") {
			return fmt.Errorf("gc left %s", name)
		}
		info, err := d.Info()
		if derived := strings.HasPrefix(name, filepath.Join(dir, store.IndexDir)+string(filepath.Separator)); err == nil && !derived {
			sum += info.Size()
		}
		return err
	})
	return sum, err
}
