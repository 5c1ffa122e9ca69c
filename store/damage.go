package store

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/arcboxlabs/arcstore/chunker"
	"github.com/arcboxlabs/arcstore/store/disk"
)

// damage is what a process knows of the damage in a store: what it found
// itself and what others left word of in damaged/. Whoever finds some writes it
// down there, with or without the store's lock; who writes to the store looks there
// before each snapshot, and takes what is damaged for absent.
type damage struct {
	disk disk.Disk
	dir  string // damaged/
	now  atomic.Pointer[spoiled]
	bad  atomic.Bool // whether any chunk is damaged

	mu    sync.Mutex
	marks map[PackID]*mark
	kept  map[PackID]bool // of marks, those that are on disk
}

// noPack is under whose name it is kept that snapshots need chunks that no pack has.
var noPack PackID

func newDamage(d disk.Disk, dir string) *damage {
	return &damage{disk: d, dir: filepath.Join(dir, damagedName), marks: make(map[PackID]*mark), kept: make(map[PackID]bool)}
}

func (d *damage) path(id PackID) string { return filepath.Join(d.dir, id.String()) }

// spoiled returns what is damaged; nil where nothing is known to be.
func (d *damage) spoiled() spoiled {
	if p := d.now.Load(); p != nil {
		return *p
	}
	return nil
}

// known reports whether any chunk is known to be damaged.
func (d *damage) known() bool { return d.bad.Load() }

// changed makes what marks say visible; the caller holds mu.
func (d *damage) changed() {
	var now spoiled
	bad := false
	if len(d.marks) > 0 {
		now = make(spoiled, len(d.marks))
		for id, m := range d.marks {
			now[id] = m.set()
			bad = bad || m.whole || len(m.slots) > 0
		}
	}
	d.now.Store(&now)
	d.bad.Store(bad)
}

// load looks for what other processes found. What cannot be read says
// nothing: it is found again by the next verification.
func (d *damage) load() {
	entries, err := d.disk.ReadDir(d.dir)
	d.mu.Lock()
	defer d.mu.Unlock()
	if err != nil && len(d.marks) == 0 {
		return
	}
	on := make(map[PackID]bool, len(entries))
	for _, e := range entries {
		id, err := ParsePackID(e.Name())
		if err != nil {
			continue
		}
		if m, err := d.read(id); err == nil {
			on[id] = true
			if old := d.marks[id]; old != nil && !d.kept[id] {
				m = old.join(m) // what could not be written down is known all the same
			}
			d.marks[id] = m
		}
	}
	for id := range d.marks {
		if d.kept[id] && !on[id] {
			delete(d.marks, id) // somebody found it sound, or swept it
		}
	}
	d.kept = on
	d.changed()
}

func (d *damage) read(id PackID) (*mark, error) {
	b, err := disk.ReadFile(d.disk, d.path(id), maxMark)
	if err != nil {
		return nil, err
	}
	return decodeMark(b)
}

// add notes more damage of a pack. It is known to this process even if it
// cannot be written down.
func (d *damage) add(id PackID, m *mark) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.put(id, d.marks[id].join(m))
}

// set notes all that is damaged of a pack.
func (d *damage) set(id PackID, m *mark) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if old := d.marks[id]; old != nil {
		m.found = old.found
	}
	return d.put(id, m)
}

// put makes m known; the caller holds mu.
func (d *damage) put(id PackID, m *mark) error {
	if d.marks[id].equal(m) && d.kept[id] {
		return nil
	}
	d.marks[id] = m
	d.kept[id] = false
	d.changed()
	if err := writeNote(d.disk, d.path(id), m.encode()); err != nil {
		return fmt.Errorf("store: note damage: %w", err)
	}
	d.kept[id] = true
	return nil
}

// clear forgets the damage of a pack that is sound, or gone.
func (d *damage) clear(id PackID) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.marks[id] == nil {
		return nil
	}
	if err := d.disk.Remove(d.path(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("store: forget damage: %w", err)
	}
	delete(d.marks, id)
	delete(d.kept, id)
	d.changed()
	return nil
}

// list returns the packs that are known to be damaged, and since when.
func (d *damage) list() map[PackID]time.Time {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := make(map[PackID]time.Time, len(d.marks))
	for id, m := range d.marks {
		out[id] = m.found
	}
	return out
}

// NoteLost notes whether snapshots need chunks of which no pack has even a
// damaged copy: then creates look out for what they can heal.
func (s *Store) NoteLost(lost bool) error {
	if lost {
		return s.damage.add(noPack, &mark{found: time.Now(), whole: true})
	}
	return s.damage.clear(noPack)
}

// mark returns what is known of a pack's damage; nil for nothing.
func (d *damage) mark(id PackID) *mark {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.marks[id]
}

// damagedChunks are those known to be damaged.
type damagedChunks struct {
	ids map[chunker.ID]bool
	any bool // there are others, whose IDs are not known
}

func (d *damagedChunks) has(id chunker.ID) bool { return d != nil && (d.any || d.ids[id]) }

// damagedChunks returns the chunks that are known to be damaged; nil for none.
func (s *Store) damagedChunks() (*damagedChunks, error) {
	if !s.damage.known() {
		return nil, nil
	}
	d := &damagedChunks{ids: make(map[chunker.ID]bool)}
	for id := range s.damage.list() {
		m := s.damage.mark(id)
		if m == nil || m.whole {
			d.any = true
			continue
		}
		t, err := s.loadTable(id)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrCorrupt) {
			d.any = true
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, slot := range m.slots {
			if int(slot) < t.slots() {
				d.ids[*t.id(int(slot))] = true
			}
		}
	}
	return d, nil
}
