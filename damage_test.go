package arcstore

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/arcboxlabs/arcstore/manifest"
)

// flip flips two bits of a byte of every file that fits: more than is mended.
func flip(t *testing.T, m *Manager, pattern string, at func(size int) int) {
	t.Helper()
	names := glob(t, filepath.Join(m.store.Dir(), pattern))
	if len(names) == 0 {
		t.Fatalf("there is no %s", pattern)
	}
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		b[at(len(b))] ^= 5
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func state(t *testing.T, m *Manager, id string) manifest.State {
	t.Helper()
	e, err := m.Get(context.Background(), id)
	if err != nil {
		t.Fatal(err)
	}
	return e.State
}

// What another process finds, this one takes up with its next create, and heals.
func TestDamageFoundByAnother(t *testing.T) {
	ctx := context.Background()
	m := newManager(t, nil)
	ram := newRAM(1, 4<<20)
	first := create(t, m, "vm", ram.vm(), nil)
	flip(t, m, "packs/*/*", func(int) int { return 5000 })
	reader, err := Open(ctx, m.store.Dir(), &Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	report, err := reader.Verify(ctx, &VerifyOptions{Data: true})
	if err != nil || len(report.Damage) == 0 {
		t.Fatalf("%+v, %v", report, err)
	}
	// The lock is ours: the state is left to us.
	if !strings.Contains(report.Unnoted, "in use") || state(t, m, first.ID) != manifest.Ready {
		t.Errorf("%q, %s", report.Unnoted, state(t, m, first.ID))
	}
	if _, err := m.GC(ctx, nil); err != nil {
		t.Fatal(err)
	}
	if got := state(t, m, first.ID); got != manifest.Invalid {
		t.Errorf("after gc it is %s", got)
	}
	// A damaged one is no parent unless it is named; and restores as far as it goes.
	if _, err := m.RestoreStream(ctx, "vm@latest", "memory", &bytes.Buffer{}, nil); !IsCorrupt(err) {
		t.Errorf("restoring it: %v", err)
	}
	second := create(t, m, "vm", ram.vm(), nil)
	if second.Parent != "" || second.Cost.ChunksNew == 0 {
		t.Errorf("its parent is %q, %d chunks are new", second.Parent, second.Cost.ChunksNew)
	}
	checkRestored(t, m, second.ID, ram.data)
	checkRestored(t, m, first.ID, ram.data)
	if got := state(t, m, first.ID); got != manifest.Ready {
		t.Errorf("after it was healed it is %s", got)
	}
	if third := create(t, m, "vm", ram.vm(), nil); third.Parent != second.ID || third.Cost.ChunksNew != 0 {
		t.Errorf("its parent is %q, %d chunks are new", third.Parent, third.Cost.ChunksNew)
	}
}

// Damaged page tables keep nobody from taking the next snapshot, and what it inherits from them is not lost.
func TestParentsTablesDamaged(t *testing.T) {
	for name, at := range map[string]func(int) int{
		"leaf": func(int) int { return 100 },
		"root": func(size int) int { return size - 50 },
	} {
		t.Run(name, func(t *testing.T) {
			ctx := context.Background()
			m := newManager(t, nil)
			ram := newRAM(1, 40<<20)
			first := create(t, m, "vm", ram.vm(), nil)
			flip(t, m, "manifests/*/*", at)
			dirty := ram.touch(5) // or its manifest might be the very same file, and heal the first
			second := create(t, m, "vm", ram.vm(), nil)
			if second.Cost.ChunksNew > 5 || (second.Parent == "") != (name == "root") {
				t.Errorf("its parent is %q, %d chunks are new", second.Parent, second.Cost.ChunksNew)
			}
			checkRestored(t, m, second.ID, ram.data)
			report, err := m.Verify(ctx, nil)
			if err != nil || len(report.Damage) != 1 || len(report.Damage[0].Snapshots) != 1 || report.Damage[0].Snapshots[0] != first.ID {
				t.Errorf("%+v, %v", report, err)
			}
			if state(t, m, first.ID) != manifest.Invalid || state(t, m, second.ID) != manifest.Ready {
				t.Errorf("%s and %s", state(t, m, first.ID), state(t, m, second.ID))
			}
			// With a bitmap, what the parent's tables do not say is read.
			for i, b := range ram.touch(20) {
				dirty[i] |= b
			}
			opts := &CreateOptions{Parent: first.ID, Dirty: dirty}
			if name == "leaf" {
				third := create(t, m, "vm", ram.vm(), opts)
				checkRestored(t, m, third.ID, ram.data)
				if third.Cost.BytesScanned > 20<<20 {
					t.Errorf("%d bytes were read", third.Cost.BytesScanned)
				}
			} else if _, err := m.CreateVM(ctx, "vm", ram.vm(), opts); !IsCorrupt(err) {
				t.Errorf("a bitmap against a parent that cannot be read: %v", err)
			}
			if _, err := m.GC(ctx, nil); err != nil {
				t.Error(err)
			}
			// What a damaged snapshot needs is not known, but for the packs that it names: those stay.
			packs := len(glob(t, filepath.Join(m.store.Dir(), "packs/*/*")))
			all, err := m.List(ctx, "")
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range all {
				if e.ID != first.ID {
					if _, err := m.Delete(ctx, e.ID); err != nil {
						t.Fatal(err)
					}
				}
			}
			if _, err := m.GC(ctx, nil); err != nil {
				t.Error(err)
			}
			if left := len(glob(t, filepath.Join(m.store.Dir(), "packs/*/*"))); left == 0 || left > packs {
				t.Errorf("%d packs are left of %d", left, packs)
			}
			if _, err := m.Delete(ctx, first.ID); err != nil {
				t.Fatal(err)
			}
			if report, err := m.GC(ctx, nil); err != nil || report.ManifestsDeleted == 0 {
				t.Errorf("%+v, %v", report, err)
			}
			if left := len(glob(t, filepath.Join(m.store.Dir(), "*s/*/*"))); left != 0 {
				t.Errorf("%d packs and manifests are left", left)
			}
		})
	}
}
