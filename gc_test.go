package arcstore

import (
	"context"
	"math"
	"os"
	"path/filepath"
	"testing"
)

// What a dry run says is what the run then does: to the pack and the chunk, and to a few percent of the bytes, since
// only compressing tells what is written.
func TestDryRunAgrees(t *testing.T) {
	ctx := context.Background()
	for name, prepare := range map[string]func(t *testing.T, m *Manager, ram *ram){
		"nothing to do": func(t *testing.T, m *Manager, ram *ram) {},
		"dead packs": func(t *testing.T, m *Manager, ram *ram) {
			e := create(t, m, "other", newRAM(99, 8<<20).vm(), &CreateOptions{Parent: ParentNone})
			if _, err := m.Delete(ctx, e.ID); err != nil {
				t.Fatal(err)
			}
		},
		"half dead and scattered": func(t *testing.T, m *Manager, ram *ram) {
			all, err := m.List(ctx, "")
			if err != nil {
				t.Fatal(err)
			}
			for range 14 {
				ram.touch(300)
				create(t, m, "vm", ram.vm(), nil)
			}
			for _, e := range all {
				if _, err := m.Delete(ctx, e.ID); err != nil {
					t.Fatal(err)
				}
			}
		},
		"leftovers": func(t *testing.T, m *Manager, ram *ram) {
			for _, name := range []string{"packs/.tmp-1", "packs/.tmp-2", "manifests/.tmp-3", "snapshots/.tmp-4", "snapshots/torn.pending"} {
				if err := os.WriteFile(filepath.Join(m.store.Dir(), name), make([]byte, 1000), 0o600); err != nil {
					t.Fatal(err)
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := newManager(t, nil)
			ram := newRAM(5, 16<<20)
			create(t, m, "vm", ram.vm(), nil)
			prepare(t, m, ram)
			reader, err := Open(ctx, m.store.Dir(), &Options{ReadOnly: true})
			if err != nil {
				t.Fatal(err)
			}
			defer reader.Close()
			before, err := reader.Stats(ctx)
			if err != nil {
				t.Fatal(err)
			}
			dry, err := reader.GC(ctx, &GCOptions{DryRun: true})
			if err != nil {
				t.Fatal(err)
			}
			real, err := m.GC(ctx, nil)
			if err != nil {
				t.Fatal(err)
			}
			after, err := reader.Stats(ctx)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("dry  %+v\nreal %+v", *dry, *real)
			if dry.PacksDeleted != real.PacksDeleted || dry.PacksWritten != real.PacksWritten || dry.ChunksMoved != real.ChunksMoved ||
				dry.ManifestsDeleted != real.ManifestsDeleted || dry.LeftoversDeleted != real.LeftoversDeleted || dry.ChunksLive != real.ChunksLive {
				t.Error("the figures differ")
			}
			if d := math.Abs(float64(dry.BytesFreed - real.BytesFreed)); d > 0.05*float64(max(real.BytesRewritten, 1<<16)) {
				t.Errorf("the bytes differ by %.0f", d)
			}
			if name != "nothing to do" && real.BytesFreed == 0 {
				t.Error("there was nothing to free")
			}
			// And what it says was freed is what the store lost.
			if got := before.PackBytes - after.PackBytes; got > real.BytesFreed || got < real.BytesFreed-(1<<20) {
				t.Errorf("packs shrank by %d bytes, %d are said to be freed", got, real.BytesFreed)
			}
		})
	}
}
