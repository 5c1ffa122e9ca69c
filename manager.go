package arcstore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/arcboxlabs/arcstore/manifest"
	"github.com/arcboxlabs/arcstore/store"
	"github.com/arcboxlabs/arcstore/store/crypt"
	"github.com/arcboxlabs/arcstore/store/disk"
)

const (
	manifestsName = "manifests"
	snapshotsName = "snapshots"
	// workingSetsName is the directory of what restores recorded. All of it may be deleted.
	workingSetsName = "working-sets"
)

// InitOptions are the choices that Init makes for a store; nil or zero values are the defaults.
type InitOptions struct {
	// ChunkSize in bytes: a power of two from 4 KiB to 2 MiB; default 4 KiB.
	ChunkSize int
	// Compression of new frames: "lz4" (default) or "zstd".
	Compression string
	// Secret, unless zero, opens the store, which is encrypted then: what it holds of snapshots is encrypted
	// with a new key, which the secret keeps.
	Secret Secret
}

// Init makes a store in dir, which must not exist or be empty.
func Init(dir string, opts *InitOptions) error { return initOn(disk.OS, dir, opts) }

func initOn(d disk.Disk, dir string, opts *InitOptions) error {
	if opts == nil {
		opts = &InitOptions{}
	}
	for _, name := range []string{manifestsName, snapshotsName} {
		if _, err := d.Stat(filepath.Join(dir, name)); err == nil {
			return fmt.Errorf("arcstore: init %s: %w: the directory is not empty", dir, ErrExists)
		}
	}
	var key *crypt.Key
	var slots []crypt.Slot
	if !opts.Secret.IsZero() {
		key = crypt.NewKey()
		slot, err := key.NewSlot(opts.Secret, "")
		if err != nil {
			return fmt.Errorf("%w: %w", ErrInvalid, err)
		}
		slots = append(slots, slot)
	}
	return initWithKey(d, dir, opts, key, slots)
}

func initWithKey(d disk.Disk, dir string, opts *InitOptions, key *crypt.Key, slots []crypt.Slot) error {
	_, err := store.InitEncrypted(dir, store.Config{ChunkSize: opts.ChunkSize, Compression: opts.Compression}, key, slots, d)
	return err
}

// Options are the choices of Open.
type Options struct {
	// ReadOnly opens without the lock, beside whoever holds it: get, list,
	// restore, verify, diff and stats work, the rest fails with ErrReadOnly.
	ReadOnly bool
	// LockTimeout is how long to wait for another process to let go of the
	// store before failing with ErrInUse; 0 does not wait.
	LockTimeout time.Duration
	// Holder is what other processes are told of this one; default the program's name.
	Holder string
	// Secret is asked for a secret that opens the store, if that is encrypted. nil fails with ErrLocked.
	Secret func() (Secret, error)
	// Guard is called before Create pauses a guest, and sees to it that the guest is resumed should this process die:
	// until release, what capture.Resume does with these arguments is due if it does. nil is nobody.
	Guard func(vmm, socket string) (release func(), err error)

	// Observe is told of each operation that ended, from its goroutine; nil is nobody.
	Observe func(Observation)

	key     *crypt.Key // known already
	distant bool       // it is read over a network
}

// Manager is an open store. It is safe for concurrent use.
type Manager struct {
	dir       string
	store     *store.Store
	manifests *manifest.Files
	catalogue *manifest.Catalogue
	working   *manifest.WorkingSets
	// Of a bucket: which packs hold parts of a snapshot's memory, and where what restores record goes.
	near          func(id string) [][]string
	readAround    func() error
	putWorkingSet func(ctx context.Context, id string, w *WorkingSet) error

	readOnly bool
	holder   string
	guard    func(vmm, socket string) (func(), error)
	observer func(Observation)
	distant  bool
	dropped  []*Snapshot // what Open found of creates that had died

	// mu orders what changes the roots of garbage collection: a parent is
	// resolved and registered, or deleted, but not both at once.
	mu      sync.Mutex
	parents map[manifest.Digest]int // of creates that are running
	running map[string]bool         // IDs of creates that are running

	// committing is held for reading while a create has a manifest but no entry yet.
	committing sync.RWMutex
}

// Open opens the store in dir. Close must be called.
func Open(ctx context.Context, dir string, opts *Options) (*Manager, error) {
	return openOn(ctx, disk.OS, 0, dir, opts)
}

func openOn(ctx context.Context, d disk.Disk, packSize int64, dir string, opts *Options) (*Manager, error) {
	if opts == nil {
		opts = &Options{}
	}
	holder := opts.Holder
	if holder == "" {
		holder = filepath.Base(os.Args[0])
	}
	s, err := store.Open(ctx, dir, store.Options{ReadOnly: opts.ReadOnly, LockTimeout: opts.LockTimeout, Holder: holder, Disk: d, PackSize: packSize,
		Unlock: opts.unlock, Distant: opts.distant})
	if err != nil {
		return nil, err
	}
	m := &Manager{
		dir:       dir,
		store:     s,
		manifests: manifest.OpenSealedFiles(filepath.Join(dir, manifestsName), d, s.Key()),
		catalogue: manifest.OpenCatalogue(filepath.Join(dir, snapshotsName), d),
		working:   manifest.OpenWorkingSets(filepath.Join(dir, workingSetsName), d, s.Key()),
		readOnly:  opts.ReadOnly,
		holder:    holder,
		guard:     opts.Guard,
		observer:  opts.Observe,
		distant:   opts.distant,
		parents:   make(map[manifest.Digest]int),
		running:   make(map[string]bool),
	}
	if !opts.ReadOnly {
		m.dropped, err = m.dropUnfinished(ctx)
		if err := errors.Join(m.manifests.Sync(), m.catalogue.Sync(), err, m.dropStaged()); err != nil {
			s.Close()
			return nil, err
		}
	}
	return m, nil
}

// unlock returns the key of an encrypted store.
func (o *Options) unlock(e *store.Encryption) (*crypt.Key, error) {
	if o.key != nil {
		return o.key, nil
	}
	if o.Secret == nil {
		return nil, ErrLocked
	}
	secret, err := o.Secret()
	if err != nil {
		return nil, err
	}
	return e.Unlock(secret)
}

// dropUnfinished removes the entries of creates that died with their process,
// or that failed on a disk where nothing could be removed, and returns them.
func (m *Manager) dropUnfinished(ctx context.Context) (dropped []*Snapshot, err error) {
	entries, err := m.list(ctx)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if e.State == manifest.Creating {
			if err := m.dropIfUnfinished(ctx, e.ID); err != nil {
				return dropped, err
			}
			dropped = append(dropped, e)
		}
	}
	return dropped, nil
}

// dropIfUnfinished looks again, now that no create can end meanwhile.
func (m *Manager) dropIfUnfinished(ctx context.Context, id string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.running[id] {
		return nil
	}
	e, err := m.catalogue.Get(ctx, id)
	if err == nil && e.State == manifest.Creating {
		err = m.catalogue.Delete(ctx, id)
	}
	if errors.Is(err, manifest.ErrNotFound) {
		return nil
	}
	return err
}

// Close waits for background work and lets go of the store. No operation may be running.
func (m *Manager) Close() error { return m.store.Close() }

// ChunkSize returns the store's chunk size in bytes.
func (m *Manager) ChunkSize() int { return m.store.Config().ChunkSize }

// Compression returns the codec of new frames.
func (m *Manager) Compression() string { return m.store.Config().Compression }

// Encrypted reports whether the store is encrypted.
func (m *Manager) Encrypted() bool { return m.store.Key() != nil }

// SetCompression changes the codec of new frames, "lz4" or "zstd", for this and later processes.
func (m *Manager) SetCompression(ctx context.Context, codec string) error {
	if m.readOnly {
		return ErrReadOnly
	}
	c, err := store.ParseCodec(codec)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return m.store.SetCompression(c)
}

// ReindexReport says what a reindex found.
type ReindexReport struct {
	Packs    int           `json:"packs"`
	Chunks   int64         `json:"chunks"`
	Duration time.Duration `json:"duration_ns"`
}

// Reindex makes the index again from the packs alone. It is never needed for
// correctness: a lost index is noticed and made again by the next create.
func (m *Manager) Reindex(ctx context.Context) (report *ReindexReport, err error) {
	defer ended(m, "reindex", "", time.Now(), &report, &err)
	if m.readOnly {
		return nil, ErrReadOnly
	}
	start := time.Now()
	r, err := m.store.Reindex(ctx)
	if err != nil {
		return nil, err
	}
	return &ReindexReport{Packs: r.Packs, Chunks: r.Chunks, Duration: time.Since(start)}, nil
}
