package arcstore_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/arcboxlabs/arcstore"
	"github.com/arcboxlabs/arcstore/bench/guest"
	"github.com/arcboxlabs/arcstore/capture"
)

// bootCounter starts a guest that counts on its console, or skips the test where QEMU is missing.
func bootCounter(ctx context.Context, t *testing.T, opts *guest.Options) *guest.Guest {
	t.Helper()
	image, err := guest.Prepare(ctx, "", guest.Counter)
	if err == nil {
		var g *guest.Guest
		if g, err = guest.Start(ctx, image, opts); err == nil {
			t.Cleanup(func() { g.Close() })
			return g
		}
	}
	if why, ok := guest.Excuse(err); ok {
		t.Skip(why)
	}
	t.Fatal(err)
	return nil
}

// counts waits until the guest has counted n times more, and returns the first of these counts.
func counts(ctx context.Context, t *testing.T, g *guest.Guest, n int) int {
	t.Helper()
	first := 0
	_, err := g.WaitFor(ctx, func(line string) bool {
		var count int
		if _, err := fmt.Sscanf(line, "count %d", &count); err != nil {
			return false
		}
		if first == 0 {
			first = count
		}
		n--
		return n == 0
	})
	if err != nil {
		t.Fatal(err)
	}
	return first
}

// A real VM is snapshotted three times while it runs. The third snapshot,
// restored after the first two were deleted and garbage was collected, goes
// on in a fresh QEMU where the old one was paused.
func TestRealVM(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	dir := t.TempDir()
	memory := filepath.Join(dir, "memory")
	g := bootCounter(ctx, t, &guest.Options{MemoryPath: memory, MemoryBytes: guest.DefaultMemoryBytes})

	storeDir := filepath.Join(dir, "store")
	if err := arcstore.Init(storeDir, nil); err != nil {
		t.Fatal(err)
	}
	m, err := arcstore.Open(ctx, storeDir, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	var snapshots []*arcstore.Snapshot
	paused := 0
	for i := range 3 {
		counts(ctx, t, g, 5)
		if err := g.Pause(ctx); err != nil {
			t.Fatal(err)
		}
		paused = g.LastCount()
		state := filepath.Join(dir, "devstate")
		if err := g.SaveDeviceState(ctx, state); err != nil {
			t.Fatal(err)
		}
		snapshots = append(snapshots, snapshotFiles(ctx, t, m, memory, state))
		t.Logf("snapshot %d at count %d: %+v", i+1, paused, snapshots[i].Cost)
		if err := g.Resume(ctx); err != nil {
			t.Fatal(err)
		}
		if i > 0 && snapshots[i].Parent != snapshots[i-1].ID {
			t.Errorf("snapshot %d does not descend from the one before", i+1)
		}
		if i > 0 && snapshots[i].Cost.BytesNew > snapshots[0].Cost.BytesNew/4 {
			t.Errorf("snapshot %d stored %d bytes, the first one %d", i+1, snapshots[i].Cost.BytesNew, snapshots[0].Cost.BytesNew)
		}
	}
	counts(ctx, t, g, 3) // it did go on
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Delete(ctx, snapshots[0].ID, snapshots[1].ID); err != nil {
		t.Fatal(err)
	}
	if _, err := m.GC(ctx, nil); err != nil {
		t.Fatal(err)
	}
	if v, err := m.Verify(ctx, &arcstore.VerifyOptions{Data: true}); err != nil || len(v.Damage) > 0 {
		t.Fatalf("verify: %+v, %v", v, err)
	}

	out := filepath.Join(dir, "restored")
	if _, err := m.Restore(ctx, snapshots[2].ID, out, nil); err != nil {
		t.Fatal(err)
	}
	g = bootCounter(ctx, t, &guest.Options{MemoryPath: filepath.Join(out, "memory"), MemoryBytes: guest.DefaultMemoryBytes,
		Incoming: filepath.Join(out, "devstate")})
	if err := g.Resume(ctx); err != nil {
		t.Fatal(err)
	}
	if first := counts(ctx, t, g, 5); first != paused+1 {
		t.Errorf("the restored guest went on with %d, want %d", first, paused+1)
	}
}

// snapshotFiles takes a snapshot of a paused guest's RAM and device state.
func snapshotFiles(ctx context.Context, t *testing.T, m *arcstore.Manager, memory, state string) *arcstore.Snapshot {
	t.Helper()
	ram, err := capture.OpenFile(memory)
	if err != nil {
		t.Fatal(err)
	}
	defer ram.Close()
	devices, err := os.ReadFile(state)
	if err != nil {
		t.Fatal(err)
	}
	s, err := m.CreateVM(ctx, "counter", &arcstore.VM{
		Memory:  ram,
		Machine: &arcstore.Machine{Architecture: "amd64", Regions: []arcstore.Region{{Size: ram.Size()}}},
		State:   map[string]arcstore.Source{"devstate": capture.Bytes(devices)},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return s
}
