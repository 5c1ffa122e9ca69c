package manifest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/arcboxlabs/arcstore/chunker"
	"github.com/arcboxlabs/arcstore/store/disk"
)

// newBuilder returns a builder that is aborted at the end of the test.
func newBuilder(tb testing.TB, f *Files, parent *Table) *Builder {
	tb.Helper()
	b, err := f.Build(context.Background(), 4096, parent)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(b.Abort)
	return b
}

func newStream(tb testing.TB, b *Builder, name string, size int64) *StreamBuilder {
	tb.Helper()
	s, err := b.Stream(name, size)
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

func commit(tb testing.TB, b *Builder) Digest {
	tb.Helper()
	d, err := b.Commit(context.Background())
	if err != nil {
		tb.Fatal(err)
	}
	return d
}

func TestBuilderErrors(t *testing.T) {
	f := OpenFiles(filepath.Join(t.TempDir(), "not", "there", "yet"), nil)
	b := newBuilder(t, f, nil)
	s := newStream(t, b, "a", 10*4096-1) // the last chunk is short
	if err := s.Append(make([]chunker.ID, 4)); err != nil {
		t.Fatal(err)
	}
	if err := s.Append([]chunker.ID{{1}, {2}, {3}, {4}, {5}, {6}}); err != nil {
		t.Fatal(err)
	}
	parent := openTable(t, f, commit(t, b))

	for name, misuse := range map[string]func(b *Builder, s *StreamBuilder) error{
		"negative append":     func(_ *Builder, s *StreamBuilder) error { return s.Hole(-1) },
		"negative inherit":    func(_ *Builder, s *StreamBuilder) error { return s.Inherit(-1) },
		"too many":            func(_ *Builder, s *StreamBuilder) error { return s.Append(make([]chunker.ID, 13)) },
		"too many holes":      func(_ *Builder, s *StreamBuilder) error { return s.Hole(1 << 62) },
		"too much inherited":  func(_ *Builder, s *StreamBuilder) error { return s.Inherit(11) },
		"another last length": func(_ *Builder, s *StreamBuilder) error { return s.Inherit(10) },
		"beyond the parent": func(_ *Builder, s *StreamBuilder) error {
			return errors.Join(s.Hole(10), s.Inherit(1))
		},
		"same name twice": func(b *Builder, s *StreamBuilder) error {
			s.Hole(12)
			_, err := b.Stream("a", 1)
			return err
		},
		"a directory of a stream": func(b *Builder, s *StreamBuilder) error {
			s.Hole(12)
			_, err := b.Stream("a/b", 1)
			return err
		},
		"a stream of a directory": func(b *Builder, s *StreamBuilder) error {
			s.Hole(12)
			if _, err := b.Stream("x/y/z", 0); err != nil {
				return fmt.Errorf("wrongly: %w", err)
			}
			_, err := b.Stream("x/y", 1)
			return err
		},
		"negative size": func(b *Builder, s *StreamBuilder) error { s.Hole(12); _, err := b.Stream("c", -1); return err },
		"huge size":     func(b *Builder, s *StreamBuilder) error { s.Hole(12); _, err := b.Stream("c", 1<<61); return err },
		"bad name":      func(b *Builder, s *StreamBuilder) error { s.Hole(12); _, err := b.Stream("../c", 1); return err },
	} {
		// Both where the manifest is the difference to its parent and where it is full.
		for _, depth := range []int{0, MaxDepth} {
			parent.layers[0].root.depth = depth
			b := newBuilder(t, f, parent)
			parent.layers[0].root.depth = 0
			if err := misuse(b, newStream(t, b, "a", 12*4096)); !errors.Is(err, ErrInvalid) || strings.Contains(err.Error(), "wrongly") {
				t.Errorf("%s: %v", name, err)
			}
		}
	}

	// A short chunk that is a hole is a hole at any length.
	b = newBuilder(t, f, parent)
	s = newStream(t, b, "a", 4*4096-7)
	if err := s.Inherit(4); err != nil {
		t.Errorf("a short hole: %v", err)
	}
	commit(t, b)

	b = newBuilder(t, f, nil)
	newStream(t, b, "a", 4096)
	if _, err := b.Stream("b", 1); err == nil {
		t.Error("a stream began before the one before was complete")
	}
	if _, err := b.Commit(context.Background()); err == nil {
		t.Error("an incomplete stream was committed")
	}
	b.Abort()
	for _, err := range []error{s.Append(make([]chunker.ID, 1)), s.Hole(1), s.Inherit(1), func() error { _, err := b.Stream("z", 1); return err }(),
		func() error { _, err := b.Commit(context.Background()); return err }()} {
		if err == nil {
			t.Error("a builder goes on after it was committed or aborted")
		}
	}
	if _, err := f.Build(context.Background(), 8192, parent); !errors.Is(err, ErrInvalid) {
		t.Errorf("another chunk size than the parent's: %v", err)
	}
	if _, err := f.Build(context.Background(), 1000, nil); !errors.Is(err, ErrInvalid) {
		t.Errorf("an odd chunk size: %v", err)
	}
	canceled, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := f.Build(canceled, 4096, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
}

// Committing twice what is the same gives one file; aborting leaves none; all are private.
func TestBuilderFiles(t *testing.T) {
	ctx := context.Background()
	f := OpenFiles(filepath.Join(t.TempDir(), "manifests"), nil)
	if all, err := f.List(ctx); err != nil || len(all) != 0 {
		t.Fatalf("before anything: %v, %v", all, err)
	}
	if n, err := f.RemoveTemporary(); n != 0 || err != nil {
		t.Fatalf("before anything: %d leftovers, %v", n, err)
	}
	d := buildFull(t, f, []chunker.ID{{1}, {2}})
	if again := buildFull(t, f, []chunker.ID{{1}, {2}}); again != d {
		t.Errorf("the same content has the digests %s and %s", d, again)
	}
	left := newBuilder(t, f, nil)
	newStream(t, left, "a", 0)
	if n, err := f.RemoveTemporary(); n != 1 || err != nil {
		t.Errorf("one builder at work: %d leftovers, %v", n, err)
	}
	aborted := newBuilder(t, f, nil)
	aborted.Abort()
	aborted.Abort()
	err := filepath.WalkDir(f.dir, func(name string, e os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %s", name, info.Mode())
		}
		if err == nil && strings.Contains(name, disk.TempPrefix) {
			t.Errorf("%s is left", name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	// Names that are no manifest's do not count.
	for _, name := range []string{"xx/" + d.String(), "notes", "ab/README", d.String()[:2] + "/" + strings.ToUpper(d.String())} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(f.dir, name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(f.dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if all, err := f.List(ctx); err != nil || len(all) != 1 || all[0] != d {
		t.Errorf("the manifests are %v, %v, want %s", all, err, d)
	}
	if size, err := f.Size(d); err != nil || size < headerSize+footerSize {
		t.Errorf("size %d, %v", size, err)
	}
	if err := f.Remove(d); err != nil {
		t.Error(err)
	}
	for _, err := range []error{f.Remove(d), f.Verify(ctx, d), func() error { _, err := f.Size(d); return err }(), func() error { _, err := f.Open(ctx, d); return err }()} {
		if !errors.Is(err, ErrNotFound) {
			t.Errorf("of one that is gone: %v", err)
		}
	}
}

// A sparse stream costs what it holds, not what it spans, also where it builds on another one.
func TestHugeSparseStream(t *testing.T) {
	f := OpenFiles(t.TempDir(), nil)
	const size, total = 64 << 40, 64 << 40 / 4096
	build := func(parent *Table, ids map[int64]chunker.ID, at []int64, quiet func(*StreamBuilder, int64) error) *Table {
		b := newBuilder(t, f, parent)
		s := newStream(t, b, MemoryStream, size)
		next := int64(0)
		for _, i := range at {
			if err := quiet(s, i-next); err != nil {
				t.Fatal(err)
			}
			if err := s.Append([]chunker.ID{ids[i]}); err != nil {
				t.Fatal(err)
			}
			next = i + 1
		}
		if err := quiet(s, total-next); err != nil {
			t.Fatal(err)
		}
		return openTable(t, f, commit(t, b))
	}
	at := []int64{5, 1 << 33, total - 1}
	ids := map[int64]chunker.ID{5: {1}, 1 << 33: {2}, total - 1: {3}}
	hole, inherit := (*StreamBuilder).Hole, (*StreamBuilder).Inherit
	full := build(nil, ids, at, hole)
	inherited := build(full, ids, at[1:2], inherit)
	over := build(full, ids, at[2:], hole) // holes where the parent has them too, and data
	full.layers[0].root.depth = MaxDepth   // so that what builds on it is written in full
	rewritten := build(full, ids, nil, inherit)
	full.layers[0].root.depth = 0
	for name, table := range map[string]*Table{"full": full, "inherited": inherited, "holes": over, "rewritten": rewritten} {
		if n, err := f.Size(table.Digest()); err != nil || n > 1000 {
			t.Errorf("%s: the manifest has %d bytes, %v", name, n, err)
		}
		s := openStream(t, table, MemoryStream)
		for i, id := range ids {
			if name == "holes" && i != total-1 {
				id = chunker.ID{}
			}
			got := make([]chunker.ID, 3)
			first := min(i, total-3)
			if err := s.Lookup(first, got); err != nil || got[i-first] != id {
				t.Errorf("%s: entry %d is %s, %v, want %s", name, i, got[i-first], err, id)
			}
		}
	}
}

// The chain is bounded in depth and in bytes; the caller does not notice.
func TestBoundedChain(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	ids := make([]chunker.ID, 8000)
	for i := range ids {
		ids[i] = randomID(r)
	}
	for _, test := range []struct{ changed, generations, want int }{
		{1, 40, MaxDepth + 1}, // by its depth: after 32 comes a full one
		{2000, 12, 5},         // by its bytes: the fourth difference makes their sum larger than the base
		{0, 40, MaxDepth + 1}, // nothing changes at all
	} {
		f := OpenFiles(t.TempDir(), nil)
		d := buildFull(t, f, ids)
		deepest, fulls := 0, 0
		for range test.generations {
			parent := openTable(t, f, d)
			want := make([]chunker.ID, len(ids))
			if err := openStream(t, parent, MemoryStream).Lookup(0, want); err != nil {
				t.Fatal(err)
			}
			var changed []int64
			for i := range test.changed {
				changed = append(changed, int64(4*i))
				want[4*i] = randomID(r)
			}
			fresh := make([]chunker.ID, len(changed))
			for i, c := range changed {
				fresh[i] = want[c]
			}
			d = buildDiff(t, f, parent, len(ids), changed, fresh)
			table := openTable(t, f, d)
			if err := sameTable(table, map[string][]chunker.ID{MemoryStream: want}); err != nil {
				t.Fatal(err)
			}
			if _, ok := table.Parent(); !ok {
				fulls++
			}
			deepest = max(deepest, len(table.Layers()))
		}
		if deepest != test.want || fulls == 0 {
			t.Errorf("%d changes a generation: at most %d layers, %d full ones, want %d", test.changed, deepest, fulls, test.want)
		}
	}
}

// A difference costs what changed: of the parent's leaves none is read.
func TestDiffReadsNoLeaves(t *testing.T) {
	d := newMemDisk()
	f := &Files{dir: "/m", disk: d}
	r := rand.New(rand.NewPCG(1, 1))
	parent := openTable(t, f, buildFull(t, f, guestIDs(r, guestPages/16)))
	before := d.ops
	buildDiff(t, f, parent, guestPages/16, []int64{7, 9000}, []chunker.ID{{1}, {2}})
	if n := d.ops - before; n > 12 {
		t.Errorf("it took %d operations of the disk", n)
	}
}

// Building holds a leaf and the directory of leaves, not the tables.
func TestBuildMemory(t *testing.T) {
	f := OpenFiles(t.TempDir(), nil)
	b := newBuilder(t, f, nil)
	const pages = 1 << 20 // 4 GiB of data: 32 MiB of IDs
	s := newStream(t, b, MemoryStream, pages*4096)
	ids := make([]chunker.ID, 64)
	for i := range ids {
		ids[i] = chunker.ID{byte(i + 1)}
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range pages / len(ids) {
		if err := s.Append(ids); err != nil {
			t.Fatal(err)
		}
	}
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 2<<20 {
		t.Errorf("%d bytes were allocated for %d entries", n, pages)
	}
	commit(t, b)
}

// A Table is read from many goroutines at once.
func TestConcurrentLookup(t *testing.T) {
	const pages = 50 * leafChunks // more leaves than are cached
	f := OpenFiles(t.TempDir(), nil)
	r := rand.New(rand.NewPCG(1, 1))
	want := guestIDs(r, pages)
	d := buildFull(t, f, want)
	for range 3 {
		changed := changedPages(r, pages/100, pages)
		fresh := make([]chunker.ID, len(changed))
		for i := range fresh {
			fresh[i] = randomID(r)
			want[changed[i]] = fresh[i]
		}
		d = buildDiff(t, f, openTable(t, f, d), pages, changed, fresh)
	}
	s := openStream(t, openTable(t, f, d), MemoryStream)
	var group sync.WaitGroup
	for g := range uint64(8) {
		group.Go(func() {
			r := rand.New(rand.NewPCG(g, 1))
			ids := make([]chunker.ID, 300)
			at := int64(0)
			for range 300 {
				if at += int64(len(ids)); g%2 == 0 || at > pages-int64(len(ids)) {
					at = r.Int64N(pages - int64(len(ids)))
				}
				if err := s.Lookup(at, ids); err != nil {
					t.Error(err)
					return
				}
				for i := range ids {
					if ids[i] != want[at+int64(i)] {
						t.Errorf("entry %d is %s, want %s", at+int64(i), ids[i], want[at+int64(i)])
						return
					}
				}
			}
		})
	}
	group.Wait()
}
