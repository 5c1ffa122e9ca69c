package store

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/arcboxlabs/arcstore/store/disk"
)

// TestLeftovers: a sweep removes what writers left that died, wherever they wrote.
func TestLeftovers(t *testing.T) {
	s := newStore(t, Config{})
	dirs := []string{"", packsName, damagedName}
	for _, dir := range dirs {
		dir = filepath.Join(s.dir, dir)
		if err := disk.MakeDir(disk.OS, dir); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, disk.TempPrefix+"1"), []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, dry := range []bool{true, false} {
		swept, err := s.Sweep(context.Background(), live(nil), SweepOptions{DryRun: dry})
		if err != nil {
			t.Fatal(err)
		}
		if swept.Leftovers != len(dirs) || swept.BytesLeftover != int64(4*len(dirs)) {
			t.Errorf("dry run %v: %d leftovers of %d bytes, want %d of %d", dry, swept.Leftovers, swept.BytesLeftover, len(dirs), 4*len(dirs))
		}
	}
	err := filepath.WalkDir(s.dir, func(name string, d fs.DirEntry, err error) error {
		if err == nil && strings.HasPrefix(d.Name(), disk.TempPrefix) {
			t.Errorf("%s is still there", name)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// sweeping is a disk on which each file is taken for a leftover, once, before it gets its name.
type sweeping struct {
	disk.Disk
	left int
}

func (d *sweeping) Rename(from, to string) error {
	if d.left--; d.left >= 0 {
		if err := d.Disk.Remove(from); err != nil {
			return err
		}
	}
	return d.Disk.Rename(from, to)
}

// TestNoteBesideSweep: what verify notes without the lock is written, though
// a sweep in another process takes its file away.
func TestNoteBesideSweep(t *testing.T) {
	name := filepath.Join(t.TempDir(), turnsName)
	if err := writeNote(&sweeping{disk.OS, 2}, name, []byte("note")); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(name); err != nil || string(b) != "note" {
		t.Errorf("%q, %v", b, err)
	}
	if err := writeNote(&sweeping{disk.OS, 100}, name, []byte("other")); err == nil {
		t.Error("it says that it was written")
	}
}
