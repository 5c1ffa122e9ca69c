package manifest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/arcboxlabs/arcstore/bench/crashdisk"
	"github.com/arcboxlabs/arcstore/chunker"
	"github.com/arcboxlabs/arcstore/store/disk"
)

// lifetime is what happens to a store: steps that each either are done for
// good when they return nil, or may be tried again.
type lifetime struct {
	f *Files
	c *Catalogue

	// What was acknowledged.
	manifests map[Digest][]chunker.ID
	entries   map[string]*Entry // nil: deleted
	doing     string            // ID of the entry that the step at hand is about
}

// newLifetime begins one on a disk in root.
func newLifetime(t *testing.T, root string) (*lifetime, *crashdisk.Disk) {
	t.Helper()
	l := &lifetime{manifests: map[Digest][]chunker.ID{}, entries: map[string]*Entry{}}
	return l, l.use(t, root)
}

// use goes on with what is in root.
func (l *lifetime) use(t *testing.T, root string) *crashdisk.Disk {
	t.Helper()
	d, err := crashdisk.New(root)
	if err != nil {
		t.Fatal(err)
	}
	l.f, l.c = OpenFiles(filepath.Join(root, "manifests"), d), OpenCatalogue(filepath.Join(root, "snapshots"), d)
	return d
}

func (l *lifetime) steps() []func(ctx context.Context) error {
	var digests [3]Digest
	var steps []func(ctx context.Context) error
	for i := range digests {
		id := fmt.Sprint("s", i)
		entry := func(s State) *Entry {
			return &Entry{ID: id, TargetID: "vm", TargetType: VM, State: s, Created: time.Unix(int64(i), 0).UTC(), Manifest: digests[i]}
		}
		steps = append(steps, func(ctx context.Context) error {
			return l.c.Put(ctx, entry(Creating), false)
		}, func(ctx context.Context) (err error) {
			parent := Digest{}
			if i > 0 {
				parent = digests[i-1]
			}
			digests[i], err = l.build(ctx, parent, i)
			return err
		}, func(ctx context.Context) error {
			return l.put(ctx, entry(Ready))
		})
	}
	return append(steps, func(ctx context.Context) error {
		e := *l.entries["s1"]
		e.Packs = []string{"0123"}
		return l.put(ctx, &e)
	}, func(ctx context.Context) error {
		l.doing = "s0"
		err := l.c.Delete(ctx, "s0")
		if errors.Is(err, ErrNotFound) {
			err = nil // tried before
		}
		if err == nil {
			l.entries["s0"], l.doing = nil, ""
		}
		return err
	})
}

func (l *lifetime) put(ctx context.Context, e *Entry) error {
	l.doing = e.ID
	err := l.c.Put(ctx, e, true)
	if err == nil {
		l.entries[e.ID], l.doing = e, ""
	}
	return err
}

func (l *lifetime) build(ctx context.Context, parent Digest, i int) (Digest, error) {
	ids := make([]chunker.ID, 100)
	var t *Table
	if i > 0 {
		var err error
		if t, err = l.f.Open(ctx, parent); err != nil {
			return Digest{}, err
		}
		defer t.Close()
		copy(ids, l.manifests[parent])
	}
	ids[i] = chunker.ID{byte(i + 1)}
	b, err := l.f.Build(ctx, 4096, t)
	if err != nil {
		return Digest{}, err
	}
	defer b.Abort()
	s, err := b.Stream(MemoryStream, int64(len(ids))*4096)
	if err != nil {
		return Digest{}, err
	}
	if i > 0 {
		err = s.Inherit(int64(i))
	}
	if err == nil {
		err = s.Append(ids[i : i+1])
	}
	if err == nil && i > 0 {
		err = s.Inherit(int64(len(ids) - i - 1))
	} else if err == nil {
		err = s.Hole(int64(len(ids) - i - 1))
	}
	if err != nil {
		return Digest{}, err
	}
	d, err := b.Commit(ctx)
	if err == nil {
		l.manifests[d] = ids
	}
	return d, err
}

// check holds what is there against what was acknowledged.
func (l *lifetime) check(ctx context.Context, lenient bool) error {
	for d, ids := range l.manifests {
		if err := l.f.Verify(ctx, d); err != nil {
			return err
		}
		if err := l.same(ctx, d, ids); err != nil {
			return err
		}
	}
	list, err := l.c.List(ctx)
	if err != nil {
		return fmt.Errorf("list: %w", err)
	}
	found := map[string]*Entry{}
	for _, e := range list {
		found[e.ID] = e
		if e.State != Ready {
			continue
		}
		// Whatever a loss of power did: no ready snapshot without its page tables.
		if err := l.f.Verify(ctx, e.Manifest); err != nil {
			return fmt.Errorf("snapshot %s: %w", e.ID, err)
		}
	}
	for id, e := range l.entries {
		got := found[id]
		switch {
		case lenient && id == l.doing:
		case e == nil && got != nil:
			return fmt.Errorf("%s was deleted and is there", id)
		case e != nil && (got == nil || got.State != e.State || len(got.Packs) != len(e.Packs)):
			return fmt.Errorf("%s is %+v, want %+v", id, got, e)
		}
	}
	return nil
}

func (l *lifetime) same(ctx context.Context, d Digest, ids []chunker.ID) error {
	t, err := l.f.Open(ctx, d)
	if err != nil {
		return err
	}
	defer t.Close()
	s, err := t.Stream(MemoryStream)
	if err != nil {
		return err
	}
	got := make([]chunker.ID, s.Len())
	if err := s.Lookup(0, got); err != nil {
		return err
	}
	if !slices.Equal(got, ids) {
		return fmt.Errorf("manifest %s has other entries", d)
	}
	return nil
}

// Power is lost before each operation in turn: what was acknowledged is there
// afterwards, nothing looks damaged, and the store can be used again.
func TestPowerLoss(t *testing.T) {
	ctx := context.Background()
	for at := 1; ; at++ {
		done := false
		for seed := range uint64(4) {
			tmp := t.TempDir()
			before, after := filepath.Join(tmp, "before"), filepath.Join(tmp, "after")
			if err := errors.Join(os.Mkdir(before, 0o700), os.Mkdir(after, 0o700)); err != nil {
				t.Fatal(err)
			}
			l, d := newLifetime(t, before)
			d.PowerOffAt(at)
			done = true
			for _, step := range l.steps() {
				if err := step(ctx); err != nil {
					done = false
					break
				}
			}
			if err := d.Crash(after, seed+uint64(at)<<8); err != nil {
				t.Fatal(err)
			}
			l.use(t, after)
			if err := l.check(ctx, true); err != nil {
				t.Fatalf("power lost at operation %d, seed %d: %v", at, seed, err)
			}
			for _, remove := range []func() (int, error){l.f.RemoveTemporary, l.c.RemoveTemporary} {
				if _, err := remove(); err != nil {
					t.Fatalf("power lost at operation %d, seed %d: %v", at, seed, err)
				}
			}
			for i, step := range l.steps() {
				if err := step(ctx); err != nil {
					t.Fatalf("power lost at operation %d, seed %d: step %d after that: %v", at, seed, i, err)
				}
			}
			if err := l.check(ctx, false); err != nil {
				t.Fatalf("power lost at operation %d, seed %d: after that: %v", at, seed, err)
			}
		}
		if done {
			t.Logf("%d operations", at-1)
			return
		}
	}
}

// Each operation in turn fails once: the step says so or does without it, the
// next try succeeds, and nothing is left behind.
func TestDiskErrors(t *testing.T) {
	ctx := context.Background()
	for at := 1; ; at++ {
		l, d := newLifetime(t, t.TempDir())
		failed, keeps, sector := false, false, false
		d.Hook(func(op crashdisk.Op) error {
			if op.N != at {
				return nil
			}
			failed, keeps, sector = true, op.Kind == crashdisk.Remove, op.Kind == crashdisk.ReadAt
			return syscall.EIO
		})
		for i, step := range l.steps() {
			err := step(ctx)
			if err != nil && !errors.Is(err, syscall.EIO) && !(sector && errors.Is(err, ErrCorrupt)) {
				t.Fatalf("operation %d fails: step %d: %v", at, i, err)
			}
			if errors.Is(err, ErrCorrupt) && !sector { // one that cannot be read is damage
				t.Fatalf("operation %d fails: step %d takes that for damage: %v", at, i, err)
			}
			if err != nil {
				err = step(ctx)
			}
			if err != nil {
				t.Fatalf("operation %d fails: step %d, tried again: %v", at, i, err)
			}
		}
		d.Hook(nil)
		if err := l.check(ctx, false); err != nil {
			t.Fatalf("operation %d fails: %v", at, err)
		}
		left, err := l.c.names()
		if err != nil {
			t.Fatal(err)
		}
		temporary, err := l.f.RemoveTemporary()
		if err != nil {
			t.Fatal(err)
		}
		if !keeps && (temporary > 0 || !slices.Equal(left, []string{"s1.json", "s2.json"})) {
			t.Fatalf("operation %d fails: %d temporary files are left, and entries %v", at, temporary, left)
		}
		if !failed {
			t.Logf("%d operations", at-1)
			return
		}
	}
}

// What a commit costs: one sync of the file and one of its directory, one more for a new directory.
func TestSyncs(t *testing.T) {
	dir := t.TempDir()
	d := &countingDisk{Disk: disk.OS}
	f := &Files{dir: dir, disk: d}
	buildFull(t, f, []chunker.ID{{1}})
	if d.files != 1 || d.dirs != 2 {
		t.Errorf("a commit into a new directory syncs %d files and %d directories, want 1 and 2", d.files, d.dirs)
	}
	d.files, d.dirs = 0, 0
	buildFull(t, f, []chunker.ID{{1}})
	if d.files != 1 || d.dirs != 1 {
		t.Errorf("a commit syncs %d files and %d directories, want 1 and 1", d.files, d.dirs)
	}
}

type countingDisk struct {
	disk.Disk
	files, dirs int
}

type countingFile struct {
	disk.File
	d *countingDisk
}

func (d *countingDisk) SyncDir(dir string) error {
	d.dirs++
	return d.Disk.SyncDir(dir)
}

func (d *countingDisk) Create(dir string) (disk.File, error) {
	f, err := d.Disk.Create(dir)
	return &countingFile{f, d}, err
}

func (f *countingFile) Sync() error {
	f.d.files++
	return f.File.Sync()
}
