package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/arcboxlabs/arcstore/chunker"
	"github.com/arcboxlabs/arcstore/store/crypt"
	"github.com/arcboxlabs/arcstore/store/disk"
)

const (
	// flushChunks and flushPacks are how much may lie outside the index before
	// it is extended: so many tables are read when the store is opened.
	flushChunks = 128 << 10
	flushPacks  = 64
	// locatorChunks is how many chunks of packs, recently found in the index or
	// not yet in it, are kept in memory.
	locatorChunks = 1 << 20
)

// Options are the choices of Open.
type Options struct {
	ReadOnly    bool          // take no lock, change nothing
	LockTimeout time.Duration // how long to wait for the lock
	Holder      string        // what the lock file says of this process
	Disk        disk.Disk     // under all files but Badger's; nil: the operating system's
	PackSize    int64         // of new packs, bytes; 0: PackSize
	// Unlock returns the key of an encrypted store; nil is an error then.
	Unlock func(*Encryption) (*crypt.Key, error)
	// Distant says that the disk is far away: it reads more at once, and from many places at once.
	Distant bool
}

// Store is an open chunk store. It is safe for concurrent use.
type Store struct {
	dir      string
	disk     disk.Disk
	readOnly bool
	packSize int64
	reads    reads
	key      *crypt.Key // nil for one without encryption
	hasher   *chunker.Hasher
	// What of the packs is sealed.
	frameSeal, tableSeal *crypt.Sealer
	lock                 *lock
	index                *index // nil when read-only
	damage               *damage
	cache                frameCache
	readers              sync.Pool // of *frameReader

	configMu sync.Mutex
	config   Config

	mu       sync.Mutex
	packs    map[PackID]*pack // nil until they were listed
	near     *locator         // packs outside the index, and those lately found through it
	outside  []*table         // the packs outside the index
	waiting  int              // chunks in them
	sweeping bool
	held     []*pack // pinned by writers that ended during the sweep

	flushing sync.Mutex // held while the index is changed
	group    sync.WaitGroup
	// writers counts those that are open, flushAhead says that a flush is to
	// come, and check is the last look at the index; all under mu.
	writers    int
	flushAhead bool
	check      *indexCheck
}

// pack is what a writing process knows of a pack; guarded by Store.mu.
type pack struct {
	id        PackID
	size      int64
	pins      int  // writers whose snapshots may come to need it
	condemned bool // a sweep is about to delete it: its chunks do not count as there
}

// Open opens the store in dir.
func Open(ctx context.Context, dir string, opts Options) (*Store, error) {
	if opts.Disk == nil {
		opts.Disk = disk.OS
	}
	c, err := readConfig(opts.Disk, dir)
	if err != nil {
		return nil, err
	}
	s := &Store{dir: dir, disk: opts.Disk, config: c, readOnly: opts.ReadOnly, packSize: cmp.Or(opts.PackSize, PackSize), reads: local, damage: newDamage(opts.Disk, dir)}
	if err := s.unlock(opts.Unlock); err != nil {
		return nil, err
	}
	if opts.Distant {
		s.reads = distant
	}
	s.damage.load()
	if opts.ReadOnly {
		return s, nil
	}
	if s.lock, err = acquireLock(ctx, dir, opts.LockTimeout, opts.Holder); err != nil {
		return nil, err
	}
	if err := s.openForWriting(ctx); err != nil {
		s.lock.release()
		return nil, err
	}
	return s, nil
}

// openForWriting lists the packs and reads the tables of those that the index does not cover.
func (s *Store) openForWriting(ctx context.Context) error {
	if len(s.VerifyConfig()) > 0 {
		if err := writeConfig(s.disk, s.dir, s.config); err != nil && !noRoom(err) {
			return err
		}
	}
	var err error
	if s.index, err = openIndex(s.disk, filepath.Join(s.dir, IndexDir)); err != nil {
		return err
	}
	ids, err := s.listPacks(ctx)
	if err != nil {
		return err
	}
	s.packs = make(map[PackID]*pack, len(ids))
	for id, size := range ids {
		s.packs[id] = &pack{id: id, size: size}
	}
	s.near = newLocator()
	if err := s.syncNames(); err != nil {
		return err
	}
	return s.loadOutside(ctx)
}

// syncNames makes durable the names of the packs that the index does not
// cover: a process that was killed may have given one its name and no more.
func (s *Store) syncNames() error {
	dirs := map[string]bool{s.dir: true, filepath.Join(s.dir, packsName): true}
	for id := range s.packs {
		if !s.index.covers(id) {
			dirs[filepath.Dir(packPath(s.dir, id))] = true
		}
	}
	for dir := range dirs {
		if err := s.disk.SyncDir(dir); err != nil {
			return fmt.Errorf("store: open: %w", err)
		}
	}
	return nil
}

// loadOutside reads the tables of the packs that the index does not cover.
// When they are many, which is so after the index was lost, it makes the index again.
func (s *Store) loadOutside(ctx context.Context) error {
	chunks := 0
	for id := range s.packs {
		if s.index.covers(id) {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		t, err := s.loadTable(id)
		if errors.Is(err, ErrCorrupt) || errors.Is(err, fs.ErrNotExist) {
			continue // its chunks are not there; verify tells
		}
		if err != nil {
			return err
		}
		s.addOutside(t)
		if chunks += t.slots(); chunks > locatorChunks {
			_, err := s.rebuildIndex(ctx)
			if noRoom(err) {
				return nil // a sweep must be able to run on a full disk
			}
			return err
		}
	}
	return nil
}

// Close waits for background work and lets go of the lock.
func (s *Store) Close() error {
	s.group.Wait()
	if s.readOnly {
		return nil
	}
	return errors.Join(s.index.closeDB(), s.lock.release())
}

// Dir returns the store's directory.
func (s *Store) Dir() string { return s.dir }

// Config returns the store's config.
func (s *Store) Config() Config {
	s.configMu.Lock()
	defer s.configMu.Unlock()
	return s.config
}

// SetCompression changes the codec of new frames, now and for later processes.
func (s *Store) SetCompression(codec Codec) error {
	return s.changeConfig(func(c *Config) error {
		c.Compression = codec.String()
		return nil
	})
}

func (s *Store) changeConfig(change func(*Config) error) error {
	if s.readOnly {
		return ErrReadOnly
	}
	s.configMu.Lock()
	defer s.configMu.Unlock()
	c := s.config
	if err := change(&c); err != nil {
		return err
	}
	c = c.prove(s.key)
	if err := writeConfig(s.disk, s.dir, c); err != nil {
		return err
	}
	s.config = c
	return nil
}

func (s *Store) codec() Codec {
	c, _ := ParseCodec(s.Config().Compression) // checked when it was read
	return c
}

// listPacks returns the packs in the directory and their sizes in bytes.
func (s *Store) listPacks(ctx context.Context) (map[PackID]int64, error) {
	packs := make(map[PackID]int64)
	root := filepath.Join(s.dir, packsName)
	dirs, err := s.disk.ReadDir(root)
	if err != nil {
		return nil, fmt.Errorf("store: list packs: %w", err)
	}
	for _, d := range dirs {
		if !d.IsDir() {
			continue
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		files, err := s.disk.ReadDir(filepath.Join(root, d.Name()))
		if err != nil {
			return nil, fmt.Errorf("store: list packs: %w", err)
		}
		for _, f := range files {
			id, err := ParsePackID(f.Name())
			if err != nil || !strings.HasPrefix(f.Name(), d.Name()) {
				continue
			}
			info, err := f.Info()
			if errors.Is(err, fs.ErrNotExist) {
				continue // swept meanwhile, by the process that writes
			}
			if err != nil {
				return nil, fmt.Errorf("store: list packs: %w", err)
			}
			packs[id] = info.Size()
		}
	}
	return packs, nil
}

// publish makes a sealed pack known; the writer w that sealed it pins it.
func (s *Store) publish(t *table, w *Writer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.packs[t.pack]
	if p == nil || p.condemned {
		p = &pack{id: t.pack, size: t.size}
		s.packs[t.pack] = p
	}
	s.addOutside(t)
	w.pin(p)
	// A large guest's chunks go into the index while it is still being read, or memory would grow with it.
	if s.waiting > 2*flushChunks {
		s.startFlush()
	}
}

// addOutside makes a table known that the index does not cover; the caller holds mu.
func (s *Store) addOutside(t *table) {
	s.outside = append(s.outside, t)
	s.waiting += t.slots()
	s.near.add(t)
}

// setOutside replaces the list of tables that the index does not cover; the caller holds mu.
func (s *Store) setOutside(tables []*table) {
	s.outside, s.waiting = tables, 0
	for _, t := range tables {
		s.waiting += t.slots()
	}
}

// startFlush extends the index in the background; the caller holds mu.
func (s *Store) startFlush() {
	if s.flushAhead {
		return
	}
	s.flushAhead = true
	s.group.Go(func() {
		s.flushIndex() // an error leaves them outside, for the next time
		s.mu.Lock()
		s.flushAhead = false
		s.mu.Unlock()
	})
}

// find looks for a chunk in all packs and pins the one that it is in. One that is known to be damaged is not there.
func (s *Store) find(id *chunker.ID, w *Writer) (*table, int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	bad := s.damage.spoiled()
	if t, slot, ok := s.near.find(id, bad); ok {
		if s.usable(t.pack, w) {
			return t, slot, nil
		}
		return nil, 0, nil
	}
	if err := s.awaitIndex(id, w.ctx); err != nil {
		return nil, 0, err
	}
	packID, ok := s.index.lookup(id)
	if !ok || s.near.has(packID) || !s.usable(packID, w) {
		return nil, 0, nil
	}
	// Where one chunk of a pack is found, its neighbours will be wanted: the
	// whole table comes in.
	t, err := s.loadTable(packID)
	if errors.Is(err, ErrCorrupt) || errors.Is(err, fs.ErrNotExist) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, err
	}
	if s.near.len() > locatorChunks {
		s.resetNear()
	}
	s.near.add(t)
	t, slot, ok := s.near.find(id, bad)
	if !ok {
		return nil, 0, nil
	}
	return t, slot, nil
}

// usable pins the pack for w, unless it is gone or about to be.
func (s *Store) usable(id PackID, w *Writer) bool {
	p := s.packs[id]
	if p == nil || p.condemned {
		return false
	}
	w.pin(p)
	return true
}

// resetNear forgets the tables found through the index.
func (s *Store) resetNear() {
	s.near = newLocator()
	for _, t := range s.outside {
		s.near.add(t)
	}
}

// release gives up a writer's pins; during a sweep they are kept to its end,
// since the sweep may have read the catalogue before the writer's snapshot was in it.
func (s *Store) release(pins map[*pack]struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for p := range pins {
		if s.sweeping {
			s.held = append(s.held, p)
		} else {
			p.pins--
		}
	}
	s.writers--
	if s.writers == 0 && s.index.suspect.Load() {
		s.group.Go(func() { s.Reindex(context.Background()) }) // an error leaves it to the next one
	}
	if s.writers == 0 && (s.waiting > flushChunks || len(s.outside) > flushPacks) {
		s.startFlush()
	}
}

// flushIndex extends the index by the packs outside it. Where the index is
// out of order, it is made again from the packs.
func (s *Store) flushIndex() error {
	s.flushing.Lock()
	defer s.flushing.Unlock()
	s.mu.Lock()
	tables := slices.Clone(s.outside) // a sweep takes out of it meanwhile what it deletes
	s.mu.Unlock()
	if len(tables) == 0 {
		return nil
	}
	if err := s.index.extend(tables, s.damage.spoiled()); err != nil {
		if s.index.check() == nil || noRoom(err) {
			return err // of the disk: the index itself is in order
		}
		_, err := s.rebuildIndex(context.Background())
		return err
	}
	covered := make(map[PackID]bool, len(tables))
	for _, t := range tables {
		covered[t.pack] = true
	}
	s.mu.Lock()
	s.setOutside(slices.DeleteFunc(s.outside, func(t *table) bool { return covered[t.pack] }))
	if s.near.len() > locatorChunks {
		s.resetNear()
	}
	s.mu.Unlock()
	return nil
}

// Reindexed says what an index was made from.
type Reindexed struct {
	Packs  int
	Chunks int64
}

// Reindex makes the index again, from the packs alone.
func (s *Store) Reindex(ctx context.Context) (Reindexed, error) {
	if s.readOnly {
		return Reindexed{}, ErrReadOnly
	}
	s.flushing.Lock()
	defer s.flushing.Unlock()
	return s.rebuildIndex(ctx)
}

// rebuildIndex empties the index and fills it again; the caller holds flushing.
func (s *Store) rebuildIndex(ctx context.Context) (Reindexed, error) {
	var r Reindexed
	if err := checkRoom(s.dir, indexRoom); err != nil {
		return r, err
	}
	if err := s.index.reset(); err != nil {
		return r, err
	}
	s.mu.Lock()
	ids := make([]PackID, 0, len(s.packs))
	for id := range s.packs {
		ids = append(ids, id)
	}
	s.mu.Unlock()
	done := make(map[PackID]bool, len(ids))
	var group []*table
	chunks := 0
	extend := func() error {
		if len(group) == 0 {
			return nil
		}
		err := s.index.extend(group, s.damage.spoiled())
		group, chunks = group[:0], 0
		return err
	}
	for _, id := range ids {
		if err := ctx.Err(); err != nil {
			return r, err
		}
		t, err := s.loadTable(id)
		if errors.Is(err, ErrCorrupt) || errors.Is(err, fs.ErrNotExist) {
			continue // its chunks are not there; verify tells
		}
		if err != nil {
			return r, err
		}
		group = append(group, t)
		done[id] = true
		r.Packs++
		r.Chunks += int64(t.slots())
		if chunks += t.slots(); chunks >= locatorChunks/2 {
			if err := extend(); err != nil {
				return r, err
			}
		}
	}
	if err := extend(); err != nil {
		return r, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.setOutside(slices.DeleteFunc(s.outside, func(t *table) bool { return done[t.pack] }))
	s.resetNear()
	return r, nil
}
