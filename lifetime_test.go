package arcstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/zeebo/blake3"

	"github.com/arcboxlabs/arcstore/manifest"
	"github.com/arcboxlabs/arcstore/store/disk"
)

// smallPack makes packs that fill up in a small test.
const smallPack = 64 << 10

// hasty is the system's disk without its syncs, for stores that nothing happens to.
type hasty struct{ disk.Disk }

var hastyDisk disk.Disk = hasty{disk.OS}

type hastyFile struct{ disk.File }

func (hasty) SyncDir(string) error { return nil }
func (hastyFile) Sync() error      { return nil }
func (d hasty) Create(dir string) (disk.File, error) {
	f, err := d.Disk.Create(dir)
	return hastyFile{f}, err
}

// promises is what a store has promised, kept outside of it.
type promises struct {
	initialized bool
	memories    map[string][]byte // of the snapshots whose create returned, by ID
	deleted     map[string]bool   // whose delete returned
	going       map[string]bool   // whose delete has begun
	making      [][]byte          // memories of creates that have begun
}

func (p *promises) clone() *promises {
	c := *p
	c.memories, c.deleted, c.going, c.making = maps.Clone(p.memories), maps.Clone(p.deleted), maps.Clone(p.going), slices.Clone(p.making)
	return &c
}

// lifetime is a store through which a script of steps goes.
type lifetime struct {
	disk disk.Disk
	dir  string
	m    *Manager // nil before it is opened
	ids  map[string]string
	full bool // what fails cannot be cleaned up

	mu       sync.Mutex
	promises promises
	reports  []*GCReport
	phases   map[string]bool // of garbage collections
}

func newLifetime(d disk.Disk, dir string) *lifetime {
	return &lifetime{disk: d, dir: dir, ids: map[string]string{}, phases: map[string]bool{},
		promises: promises{memories: map[string][]byte{}, deleted: map[string]bool{}, going: map[string]bool{}}}
}

// continueOn is another lifetime that goes on from here with a copy of the store.
func (l *lifetime) continueOn(d disk.Disk, dir string) *lifetime {
	n := newLifetime(d, dir)
	n.ids, n.promises = maps.Clone(l.ids), *l.promised()
	return n
}

func (l *lifetime) promised() *promises {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.promises.clone()
}

func (l *lifetime) change(f func(p *promises)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f(&l.promises)
}

// step is one call of the script; one that failed can be done again.
type step struct {
	name string
	do   func(ctx context.Context, l *lifetime) error
}

func (l *lifetime) init() error {
	err := initOn(l.disk, l.dir, nil)
	if err == nil {
		l.change(func(p *promises) { p.initialized = true })
	}
	return err
}

func (l *lifetime) open(ctx context.Context) (err error) {
	l.m, err = openOn(ctx, l.disk, smallPack, l.dir, nil)
	return err
}

func (l *lifetime) close() error {
	if l.m == nil {
		return nil
	}
	err := l.m.Close()
	l.m = nil
	return err
}

func (l *lifetime) create(ctx context.Context, name, target string, memory, dirty []byte, parent string) error {
	opts := &CreateOptions{Dirty: dirty, Parent: l.ids[parent]}
	if parent == ParentNone {
		opts.Parent = ParentNone
	}
	l.change(func(p *promises) { p.making = append(p.making, memory) })
	s, err := l.m.CreateVM(ctx, target, (&ram{data: memory}).vm(), opts)
	if err != nil {
		if !l.full {
			l.change(func(p *promises) { p.making = nil }) // there is none
		}
		return err
	}
	l.ids[name] = s.ID
	l.change(func(p *promises) {
		p.memories[s.ID] = memory
		p.making = nil
	})
	return nil
}

func (l *lifetime) delete(ctx context.Context, names ...string) error {
	for _, name := range names {
		id := l.ids[name]
		l.change(func(p *promises) { p.going[id] = true })
		// After a delete that failed it may be gone.
		if _, err := l.m.Delete(ctx, id); err != nil && !errors.Is(err, ErrNotFound) {
			return err
		}
		l.forget(id)
	}
	return nil
}

func (l *lifetime) forget(id string) {
	l.change(func(p *promises) {
		delete(p.memories, id)
		delete(p.going, id)
		p.deleted[id] = true
	})
}

func (l *lifetime) prune(ctx context.Context, target string, stay ...string) error {
	entries, err := l.m.List(ctx, target)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !slices.ContainsFunc(stay, func(name string) bool { return l.ids[name] == e.ID }) {
			l.change(func(p *promises) { p.going[e.ID] = true })
		}
	}
	if _, err := l.m.Prune(ctx, Retention{KeepLast: len(stay)}, &PruneOptions{Target: target}); err != nil {
		return err
	}
	for id := range l.promised().going {
		l.forget(id)
	}
	return nil
}

func (l *lifetime) gc(ctx context.Context) error {
	r, err := l.m.GC(ctx, &GCOptions{Progress: func(p Progress) { l.phases[p.Phase] = true }})
	if err == nil {
		l.reports = append(l.reports, r)
	}
	return err
}

// script is what every kind of change goes through, with several garbage
// collections: of dead packs, half-dead ones, small ones, scattered snapshots.
func script() []step {
	var steps []step
	add := func(name string, do func(ctx context.Context, l *lifetime) error) {
		steps = append(steps, step{name, do})
	}
	memories := map[string]*ram{}
	create := func(name, target, parent string, touched int, withBitmap bool) {
		r := memories[target]
		if r == nil {
			r = newRAM(uint64(len(memories)+1), 1<<20)
			memories[target] = r
		}
		dirty := r.touch(touched)
		if !withBitmap {
			dirty = nil
		}
		memory := bytes.Clone(r.data)
		add("create "+name, func(ctx context.Context, l *lifetime) error {
			return l.create(ctx, name, target, memory, dirty, parent)
		})
	}
	gc := func() { add("gc", func(ctx context.Context, l *lifetime) error { return l.gc(ctx) }) }
	remove := func(names ...string) {
		add("delete "+strings.Join(names, " "), func(ctx context.Context, l *lifetime) error { return l.delete(ctx, names...) })
	}

	add("init", func(ctx context.Context, l *lifetime) error { return l.init() })
	add("open", func(ctx context.Context, l *lifetime) error { return l.open(ctx) })
	create("a1", "a", ParentNone, 0, false)
	create("a2", "a", "a1", 20, true)
	create("b1", "b", ParentNone, 0, false)
	add("reindex", func(ctx context.Context, l *lifetime) error { _, err := l.m.Reindex(ctx); return err })
	create("a3", "a", "", 20, false)
	remove("a1")
	gc()
	add("compression", func(ctx context.Context, l *lifetime) error { return l.m.SetCompression(ctx, "zstd") })
	add("reopen", func(ctx context.Context, l *lifetime) error { return errors.Join(l.close(), l.open(ctx)) })
	for i := range 9 {
		create(fmt.Sprint("c", i), "c", "", 8, false)
		if i == 4 {
			gc()
		}
	}
	create("b2", "b", "b1", 40, true)
	gc()
	add("prune", func(ctx context.Context, l *lifetime) error { return l.prune(ctx, "c", "c8") })
	remove("a2", "b1")
	gc()
	remove("b2")
	create("a4", "a", "a3", 15, true)
	gc()
	return steps
}

// checkStore holds the store in dir against what was promised, and that it can be used on. It changes the store.
func checkStore(dir string, p *promises) error {
	ctx := context.Background()
	m, err := openOn(ctx, hastyDisk, smallPack, dir, nil)
	if errors.Is(err, ErrNoStore) && !p.initialized {
		if err := initOn(hastyDisk, dir, nil); err != nil {
			return fmt.Errorf("init after an init that was cut off: %w", err)
		}
		m, err = openOn(ctx, hastyDisk, smallPack, dir, nil)
	}
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	defer func() { m.Close() }()
	live, err := checkPromises(m, p)
	if err != nil {
		return err
	}
	// What is new dedups against what is there, or seems to be.
	last := newRAM(3, 1<<18).data
	for _, memory := range live {
		last = memory
	}
	if p.making != nil {
		last = p.making[0]
	}
	s, err := m.CreateVM(ctx, "z", (&ram{data: last}).vm(), nil)
	if err != nil {
		return fmt.Errorf("create: %w", err)
	}
	live[s.ID] = last
	gc, err := m.GC(ctx, nil)
	if err != nil {
		return fmt.Errorf("gc: %w", err)
	}
	if err := checkSound(m); err != nil {
		return fmt.Errorf("after a create and a gc: %w", err)
	}
	if err := m.Close(); err != nil {
		return fmt.Errorf("close: %w", err)
	}
	if names := temporary(dir); names != nil {
		return fmt.Errorf("gc (%+v) leaves %v", gc, names)
	}
	return checkSize(dir, live)
}

// checkPromises compares all snapshots with what they must be, and returns the memory of each that is there.
func checkPromises(m *Manager, p *promises) (map[string][]byte, error) {
	ctx := context.Background()
	if err := checkSound(m); err != nil {
		return nil, err
	}
	entries, err := m.List(ctx, "")
	if err != nil {
		return nil, fmt.Errorf("list: %w", err)
	}
	live := map[string][]byte{}
	for _, e := range entries {
		if e.State != manifest.Ready {
			return nil, fmt.Errorf("snapshot %s is %s", e.ID, e.State)
		}
		var out bytes.Buffer
		out.Grow(1 << 20)
		if _, err := m.RestoreStream(ctx, e.ID, "memory", &out, nil); err != nil {
			return nil, fmt.Errorf("restore: %w", err)
		}
		live[e.ID] = out.Bytes()
		want, ok := p.memories[e.ID]
		switch {
		case p.deleted[e.ID]:
			return nil, fmt.Errorf("snapshot %s was deleted and is back", e.ID)
		case ok && !bytes.Equal(want, out.Bytes()):
			return nil, fmt.Errorf("snapshot %s comes back different", e.ID)
		case !ok && !slices.ContainsFunc(p.making, func(b []byte) bool { return bytes.Equal(b, out.Bytes()) }):
			return nil, fmt.Errorf("snapshot %s is none that was made", e.ID)
		}
	}
	for id := range p.memories {
		if live[id] == nil && !p.going[id] {
			return nil, fmt.Errorf("snapshot %s is lost", id)
		}
	}
	return live, nil
}

func checkSound(m *Manager) error {
	v, err := m.Verify(context.Background(), &VerifyOptions{Data: true})
	if err != nil {
		return fmt.Errorf("verify: %w", err)
	}
	if len(v.Damage) != 0 {
		return fmt.Errorf("verify finds %+v", v.Damage)
	}
	return nil
}

// temporary lists what gc should have removed.
func temporary(dir string) []string {
	var names []string
	filepath.WalkDir(dir, func(name string, e os.DirEntry, err error) error {
		if err == nil && (strings.HasPrefix(e.Name(), disk.TempPrefix) || strings.HasSuffix(e.Name(), ".pending")) {
			names = append(names, name)
		}
		return err
	})
	return names
}

// packBytes returns the size and the number of the packs in a store.
func packBytes(dir string) (size int64, packs int) {
	filepath.WalkDir(filepath.Join(dir, "packs"), func(name string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			if info, err := e.Info(); err == nil {
				size += info.Size()
				packs++
			}
		}
		return nil
	})
	return size, packs
}

// freshSizes are the sizes of the packs of stores that never held anything else, by the content.
var freshSizes sync.Map

// checkSize compares the size of the packs with that of a fresh store of the same memories. A gc
// may keep a few small packs; what each takes by itself is a header, a footer and frames cut short.
func checkSize(dir string, live map[string][]byte) error {
	memories := slices.SortedFunc(maps.Values(live), bytes.Compare)
	var key []byte
	for _, b := range memories {
		id := blake3.Sum256(b)
		key = append(key, id[:]...)
	}
	fresh, ok := freshSizes.Load(string(key))
	if !ok {
		size, err := freshSize(memories)
		if err != nil {
			return err
		}
		fresh = size
		freshSizes.Store(string(key), size)
	}
	size, packs := packBytes(dir)
	if limit := fresh.(int64)*105/100 + 8<<10*int64(min(packs, 9)); size > limit {
		return fmt.Errorf("after gc, %d bytes in %d packs, where a fresh store takes %d", size, packs, fresh)
	}
	return nil
}

func freshSize(memories [][]byte) (int64, error) {
	tmp, err := os.MkdirTemp("", "arcstore-fresh-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(tmp)
	dir, ctx := filepath.Join(tmp, "store"), context.Background()
	if err := initOn(hastyDisk, dir, nil); err != nil {
		return 0, err
	}
	m, err := openOn(ctx, hastyDisk, smallPack, dir, nil)
	if err != nil {
		return 0, err
	}
	defer m.Close()
	for _, memory := range memories {
		if _, err := m.CreateVM(ctx, "t", (&ram{data: memory}).vm(), nil); err != nil {
			return 0, err
		}
	}
	if _, err := m.GC(ctx, nil); err != nil {
		return 0, err
	}
	size, _ := packBytes(dir)
	return size, nil
}

// TestScript is the script without any failure, and that it runs through every branch of a gc.
func TestScript(t *testing.T) {
	ctx := context.Background()
	l := newLifetime(hastyDisk, filepath.Join(t.TempDir(), "store"))
	defer func() { l.close() }()
	for _, s := range script() {
		if err := s.do(ctx, l); err != nil {
			t.Fatalf("%s: %v", s.name, err)
		}
	}
	dead, written := 0, 0
	for _, r := range l.reports {
		t.Logf("%+v", *r)
		dead += r.PacksDeleted
		written += r.PacksWritten
	}
	if dead == 0 || written == 0 || !l.phases["gather"] || !l.phases["rewrite"] {
		t.Errorf("%d packs deleted, %d written, phases %v", dead, written, l.phases)
	}
	if err := l.close(); err != nil {
		t.Fatal(err)
	}
	if err := checkStore(l.dir, l.promised()); err != nil {
		t.Error(err)
	}
}
