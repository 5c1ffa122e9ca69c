package store

import (
	"context"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/arcboxlabs/arcstore/bench/crashdisk"
	"github.com/arcboxlabs/arcstore/chunker"
)

// A sweep that runs out of room while it rewrites says so, loses nothing, and leaves
// the store no larger than it was.
func TestSweepWithoutRoom(t *testing.T) {
	ctx := context.Background()
	root := t.TempDir()
	d, err := crashdisk.New(root, IndexDir)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(root, "store")
	if _, err := Init(dir, Config{}, d); err != nil {
		t.Fatal(err)
	}
	s, err := Open(ctx, dir, Options{Disk: d, PackSize: 64 << 10})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	all, _ := put(t, s, model{}, 0, 600)
	var needed []chunker.ID
	for i, id := range all {
		if i%3 > 0 {
			needed = append(needed, id)
		}
	}
	live := Live{Groups: 1, Walk: func(_ context.Context, _ int, visit func([]chunker.ID) error) error { return visit(needed) }}
	sweep := func() (Swept, *Census) {
		t.Helper()
		swept, err := s.Sweep(ctx, func(context.Context) (Live, error) { return live, nil }, SweepOptions{})
		if err != nil {
			t.Fatal(err)
		}
		c, err := s.Census(ctx, live)
		if err != nil {
			t.Fatal(err)
		}
		if c.Groups[0].Lacks > 0 {
			t.Fatalf("%d chunks are lost", c.Groups[0].Lacks)
		}
		return swept, c
	}
	before, err := s.Census(ctx, live)
	if err != nil {
		t.Fatal(err)
	}
	renames := 0
	d.Hook(func(op crashdisk.Op) error {
		if op.Kind == crashdisk.Rename {
			renames++
		}
		if renames > 4 && op.Kind.NeedsRoom() {
			return syscall.ENOSPC
		}
		return nil
	})
	swept, full := sweep()
	if !swept.NoRoom {
		t.Error("it does not say that there was no room")
	}
	if full.PackBytes > before.PackBytes {
		t.Errorf("on the full disk it leaves %d bytes of %d", full.PackBytes, before.PackBytes)
	}
	d.Hook(nil)
	if swept, after := sweep(); swept.NoRoom || after.Chunks*100 > int64(len(needed))*105 {
		t.Errorf("with room again, %d chunks are left and %d needed", after.Chunks, len(needed))
	}
}
