package arcstore

import (
	"context"
	"errors"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/arcboxlabs/arcstore/bench/crashdisk"
)

// A create that fails on a disk where nothing can be removed leaves its entry behind; the next gc drops
// it, without the store being opened again.
func TestGCDropsFailedCreate(t *testing.T) {
	ctx := context.Background()
	root := t.TempDir()
	d, err := crashdisk.New(root, foreignDir)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(root, "store")
	if err := initOn(d, dir, nil); err != nil {
		t.Fatal(err)
	}
	m, err := openOn(ctx, d, smallPack, dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	memory := newRAM(1, 1<<20)
	kept := create(t, m, "vm", memory.vm(), nil)
	want := memory.data
	dead := false
	d.Hook(func(op crashdisk.Op) error {
		dead = dead || op.Kind == crashdisk.Sync
		if dead {
			return syscall.EIO
		}
		return nil
	})
	if _, err := m.CreateVM(ctx, "vm", newRAM(2, 1<<20).vm(), nil); !errors.Is(err, syscall.EIO) {
		t.Fatalf("a create on a failing disk: %v", err)
	}
	d.Hook(nil)
	if entries, err := m.List(ctx, ""); err != nil || len(entries) != 2 {
		t.Fatalf("%d entries, %v: the test means to leave one behind", len(entries), err)
	}
	if _, err := m.GC(ctx, nil); err != nil {
		t.Fatal(err)
	}
	if entries, err := m.List(ctx, ""); err != nil || len(entries) != 1 || entries[0].ID != kept.ID {
		t.Errorf("after gc there are %d entries, %v", len(entries), err)
	}
	checkRestored(t, m, kept.ID, want)
}
