package manifest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/arcboxlabs/arcstore/chunker"
)

var errDisk = errors.New("simulated failure of the disk")

// memDisk is a disk in memory that fails on demand and loses power.
type memDisk struct {
	mu   sync.Mutex
	root *memNode
	temp int

	ops   int
	fails func(op int) bool // nil: never
	keeps bool              // a removal failed
}

// memNode is a file or a directory: as it is, and as a loss of power leaves it at least.
type memNode struct {
	data, synced  []byte
	live, durable map[string]*memNode // nil for a file
}

func newDir() *memNode {
	return &memNode{live: map[string]*memNode{}, durable: map[string]*memNode{}}
}

func newMemDisk() *memDisk { return &memDisk{root: newDir()} }

// lose is what comes up after a loss of power: what was not synced is there,
// torn or gone, as r decides.
func (n *memNode) lose(r *rand.Rand) *memNode {
	if n.live == nil {
		b := n.synced
		if !bytes.Equal(n.data, n.synced) {
			switch b = bytes.Clone(n.data); r.IntN(3) {
			case 0:
				b = nil
			case 1:
				clear(b[r.IntN(len(b)+1):])
			}
		}
		return &memNode{data: b, synced: b}
	}
	names := slices.Collect(maps.Keys(n.live))
	for name := range n.durable {
		if n.live[name] == nil {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	left := newDir()
	for _, name := range names {
		child := n.live[name]
		if child != n.durable[name] && r.IntN(2) == 0 {
			child = n.durable[name]
		}
		if child != nil {
			left.live[name] = child.lose(r)
		}
	}
	left.durable = maps.Clone(left.live)
	return left
}

// op counts an operation and says whether it fails.
func (d *memDisk) op() error {
	d.ops++
	if d.fails != nil && d.fails(d.ops) {
		return errDisk
	}
	return nil
}

// find returns the directory that name is in, and what is there: nil for nothing.
func (d *memDisk) find(name string) (dir *memNode, base string, n *memNode, err error) {
	dir = d.root
	parts := strings.Split(strings.Trim(path.Clean("/"+name), "/"), "/")
	for _, p := range parts[:len(parts)-1] {
		if dir = dir.live[p]; dir == nil || dir.live == nil {
			return nil, "", nil, fs.ErrNotExist
		}
	}
	base = parts[len(parts)-1]
	if base == "" {
		return dir, "", dir, nil
	}
	return dir, base, dir.live[base], nil
}

func (d *memDisk) existing(name string) (*memNode, error) {
	if err := d.op(); err != nil {
		return nil, err
	}
	_, _, n, err := d.find(name)
	if err == nil && n == nil {
		err = fs.ErrNotExist
	}
	return n, err
}

func (d *memDisk) mkdir(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.op(); err != nil {
		return err
	}
	dir, base, n, err := d.find(name)
	if err == nil && n != nil {
		err = fs.ErrExist
	}
	if err == nil {
		dir.live[base] = newDir()
	}
	return err
}

func (d *memDisk) create(dir string) (file, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n, err := d.existing(dir)
	if err != nil {
		return nil, err
	}
	d.temp++
	base := fmt.Sprintf("%s%d", tempPrefix, d.temp)
	n.live[base] = &memNode{}
	return &memFile{d: d, n: n.live[base], name: path.Join(dir, base)}, nil
}

func (d *memDisk) open(name string) (file, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n, err := d.existing(name)
	if err != nil {
		return nil, err
	}
	return &memFile{d: d, n: n, name: name}, nil
}

func (d *memDisk) rename(from, to string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	n, err := d.existing(from)
	if err != nil {
		return err
	}
	dir, base, _, err := d.find(to)
	if err != nil {
		return err
	}
	old, oldBase, _, _ := d.find(from)
	delete(old.live, oldBase)
	dir.live[base] = n
	return nil
}

func (d *memDisk) remove(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, err := d.existing(name); err != nil {
		d.keeps = d.keeps || errors.Is(err, errDisk)
		return err
	}
	dir, base, _, _ := d.find(name)
	delete(dir.live, base)
	return nil
}

func (d *memDisk) syncDir(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	n, err := d.existing(name)
	if err == nil {
		n.durable = maps.Clone(n.live)
	}
	return err
}

func (d *memDisk) names(dir string) ([]string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n, err := d.existing(dir)
	if err != nil {
		return nil, err
	}
	return slices.Sorted(maps.Keys(n.live)), nil
}

func (d *memDisk) size(name string) (int64, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n, err := d.existing(name)
	if err != nil {
		return 0, err
	}
	return int64(len(n.data)), nil
}

// memFile is an open memNode.
type memFile struct {
	d    *memDisk
	n    *memNode
	name string
}

func (f *memFile) Name() string { return f.name }
func (f *memFile) Close() error { return nil }

func (f *memFile) Write(b []byte) (int, error) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if err := f.d.op(); err != nil {
		f.n.data = append(f.n.data, b[:len(b)/2]...)
		return len(b) / 2, err
	}
	f.n.data = append(f.n.data, b...)
	return len(b), nil
}

func (f *memFile) ReadAt(b []byte, off int64) (int, error) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if err := f.d.op(); err != nil {
		return 0, err
	}
	if off > int64(len(f.n.data)) {
		return 0, io.EOF
	}
	n := copy(b, f.n.data[off:])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

func (f *memFile) Sync() error {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	err := f.d.op()
	if err == nil {
		f.n.synced = bytes.Clone(f.n.data)
	}
	return err
}

type memInfo struct {
	fs.FileInfo
	size int64
}

func (i memInfo) Size() int64 { return i.size }

func (f *memFile) Stat() (fs.FileInfo, error) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	return memInfo{size: int64(len(f.n.data))}, f.d.op()
}

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

func newLifetime(d *memDisk) *lifetime {
	return &lifetime{f: &Files{"/store/manifests", d}, c: &Catalogue{"/store/snapshots", d},
		manifests: map[Digest][]chunker.ID{}, entries: map[string]*Entry{}}
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
		for seed := range uint64(8) {
			d := newMemDisk()
			d.fails = func(op int) bool { return op >= at }
			l := newLifetime(d)
			done = true
			for _, step := range l.steps() {
				if err := step(ctx); err != nil {
					done = false
					break
				}
			}
			l.use(&memDisk{root: d.root.lose(rand.New(rand.NewPCG(seed, uint64(at))))})
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

func (l *lifetime) use(d *memDisk) { l.f.disk, l.c.disk = d, d }

// Each operation in turn fails once: the step says so or does without it, the
// next try succeeds, and nothing is left behind.
func TestDiskErrors(t *testing.T) {
	ctx := context.Background()
	for at := 1; ; at++ {
		d := newMemDisk()
		failed := false
		d.fails = func(op int) bool {
			failed = failed || op == at
			return op == at
		}
		l := newLifetime(d)
		for i, step := range l.steps() {
			err := step(ctx)
			if err != nil && !errors.Is(err, errDisk) {
				t.Fatalf("operation %d fails: step %d: %v", at, i, err)
			}
			if errors.Is(err, ErrCorrupt) {
				t.Fatalf("operation %d fails: step %d takes that for damage: %v", at, i, err)
			}
			if err != nil {
				err = step(ctx)
			}
			if err != nil {
				t.Fatalf("operation %d fails: step %d, tried again: %v", at, i, err)
			}
		}
		d.fails = nil
		if err := l.check(ctx, false); err != nil {
			t.Fatalf("operation %d fails: %v", at, err)
		}
		left, err := d.names(l.c.dir)
		if err != nil {
			t.Fatal(err)
		}
		temporary, err := l.f.RemoveTemporary()
		if err != nil {
			t.Fatal(err)
		}
		if !d.keeps && (temporary > 0 || !slices.Equal(left, []string{"s1.json", "s2.json"})) {
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
	d := &countingDisk{}
	f := &Files{dir, d}
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
	osDisk
	files, dirs int
}

type countingFile struct {
	file
	d *countingDisk
}

func (d *countingDisk) syncDir(dir string) error {
	d.dirs++
	return d.osDisk.syncDir(dir)
}

func (d *countingDisk) create(dir string) (file, error) {
	f, err := d.osDisk.create(dir)
	return &countingFile{f, d}, err
}

func (f *countingFile) Sync() error {
	f.d.files++
	return f.file.Sync()
}
