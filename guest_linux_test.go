package arcstore_test

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/arcboxlabs/arcstore"
	"github.com/arcboxlabs/arcstore/bench/guest"
	"github.com/arcboxlabs/arcstore/capture"
)

// A QEMU guest is snapshotted through its QMP socket, with and without reading ahead, and goes on each time. What
// was captured goes on in a fresh QEMU, from where it was paused.
func TestQEMUGuest(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	dir := t.TempDir()
	socket := filepath.Join(dir, "qmp")
	g := bootCounter(ctx, t, &guest.Options{MemoryPath: filepath.Join(dir, "memory"), MemoryBytes: guest.DefaultMemoryBytes, QMPSocket: socket})
	storeDir := filepath.Join(dir, "store")
	if err := arcstore.Init(storeDir, nil); err != nil {
		t.Fatal(err)
	}
	m, err := arcstore.Open(ctx, storeDir, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	q, err := capture.OpenQEMU(ctx, socket)
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	var before, after int
	var last *arcstore.Snapshot
	for i, opts := range []*arcstore.GuestOptions{nil, {PreCopy: true}, {PreCopy: true, CreateOptions: arcstore.CreateOptions{Parent: arcstore.ParentNone}}} {
		counts(ctx, t, g, 3)
		before = g.LastCount()
		s, err := m.CreateFromGuest(ctx, "counter", q, opts)
		if err != nil {
			t.Fatal(err)
		}
		after = g.LastCount()
		counts(ctx, t, g, 2) // it goes on
		t.Logf("between %d and %d: paused for %v of %v, %d bytes new", before, after, s.Cost.Pause, s.Cost.Duration, s.Cost.BytesNew)
		if s.Cost.Pause <= 0 || s.Cost.Pause >= s.Cost.Duration {
			t.Errorf("paused for %v of %v", s.Cost.Pause, s.Cost.Duration)
		}
		if i == 1 && s.Parent != last.ID || i != 1 && s.Parent != "" {
			t.Errorf("snapshot %d has the parent %q", i, s.Parent)
		}
		last = s
	}
	list, err := m.List(ctx, "")
	if err != nil || len(list) != 3 {
		t.Errorf("%d snapshots are listed, %v", len(list), err)
	}
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := m.GC(ctx, nil); err != nil {
		t.Fatal(err)
	}
	if v, err := m.Verify(ctx, &arcstore.VerifyOptions{Data: true}); err != nil || len(v.Damage) > 0 {
		t.Fatalf("verify: %+v, %v", v, err)
	}
	out := filepath.Join(dir, "restored")
	if _, err := m.Restore(ctx, last.ID, out, nil); err != nil {
		t.Fatal(err)
	}
	restored := bootCounter(ctx, t, &guest.Options{MemoryPath: filepath.Join(out, "memory"), MemoryBytes: guest.DefaultMemoryBytes,
		Incoming: filepath.Join(out, capture.QEMUState)})
	if err := restored.Resume(ctx); err != nil {
		t.Fatal(err)
	}
	if first := counts(ctx, t, restored, 5); first < before || first > after+2 { // the line at which it was paused may be cut
		t.Errorf("the restored guest went on with %d, it was paused between %d and %d", first, before, after)
	}
}
