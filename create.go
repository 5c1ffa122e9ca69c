package arcstore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/arcboxlabs/arcstore/capture"
	"github.com/arcboxlabs/arcstore/chunker"
	"github.com/arcboxlabs/arcstore/manifest"
	"github.com/arcboxlabs/arcstore/store"
)

// CreateVM snapshots vm as target. When it returns without an error the
// snapshot is durable and ready; otherwise there is none.
func (m *Manager) CreateVM(ctx context.Context, target string, vm *VM, opts *CreateOptions) (s *Snapshot, err error) {
	if opts == nil {
		opts = &CreateOptions{}
	}
	opts, observed := m.observeCreate(target, opts)
	defer func() { observed(s, err) }()
	return m.create(ctx, target, manifest.VM, opts, func(c *creation) error {
		stats, err := capture.CaptureVM(ctx, vm, c.writer, c.builder, c.options(opts))
		if err != nil {
			return err
		}
		return c.commit(ctx, stats)
	})
}

// CreateContainer checkpoints c as target. Live processes stay stopped until
// the snapshot is durable: where anything fails, they go on as if nothing had
// happened. When it returns without an error, the snapshot is durable and
// ready. With an error there is none, but for one case: where the processes could
// not be ended, or let go on, after their snapshot was durable, both are returned.
// Where processes need a choice that container does not make, the error is a *capture.ChoiceError.
func (m *Manager) CreateContainer(ctx context.Context, target string, container *Container, opts *CreateOptions) (s *Snapshot, err error) {
	if opts == nil {
		opts = &CreateOptions{}
	}
	opts, observed := m.observeCreate(target, opts)
	defer func() { observed(s, err) }()
	if opts.Dirty != nil {
		return nil, fmt.Errorf("arcstore: %w: a dirty bitmap is for the memory of VMs", ErrInvalid)
	}
	return m.create(ctx, target, manifest.Container, opts, func(c *creation) (err error) {
		staging, err := m.stage(c.entry.ID)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, m.unstage(staging)) }()
		if container.Images != "" {
			c.entry.Host = nil // whoever made them knows where
		} else {
			c.entry.Host.CRIU = capture.CRIUVersion(ctx)
		}
		return capture.CaptureContainer(ctx, container, staging, c.writer, c.builder, c.options(opts), func(stats capture.Stats) error {
			return c.commit(ctx, stats)
		})
	})
}

// creation is a snapshot on its way: what capture writes to.
type creation struct {
	m           *Manager
	entry       *Snapshot
	parent      *Snapshot // nil for none
	parentTable *manifest.Table
	writer      *store.Writer
	builder     *manifest.Builder
	start       time.Time
	healed      bool // chunks that were damaged
	done        bool // the snapshot is durable
	dedup       *Dedup
	copied      manifest.Cost // what copying the memory of a running guest cost
}

// options are the choices of its capture.
func (c *creation) options(opts *CreateOptions) capture.Options {
	return capture.Options{
		ChunkSize:   c.m.ChunkSize(),
		Hasher:      c.m.store.Hasher(),
		Parent:      c.parentTable,
		ReadParent:  c.readParent,
		Dirty:       chunker.Bitmap(opts.Dirty),
		Ahead:       opts.ahead(),
		CleanSample: opts.CleanSample,
		Damaged:     c.lacks(),
		Progress: func(done, total int64) {
			if opts.Progress != nil {
				opts.Progress(Progress{Phase: "scan", Done: done, Total: total})
			}
		},
	}
}

// maxRead is how long a stream may be that readParent reads, in bytes.
const maxRead = 1 << 20

// readParent returns a small stream of the parent; nil where there is none.
func (c *creation) readParent(ctx context.Context, name string) ([]byte, error) {
	r := &SnapshotReader{entry: c.parent, table: c.parentTable, chunks: c.m.store.NewFetcher(packIDs(c.parent.Packs)), chunkSize: c.m.ChunkSize()}
	defer r.chunks.Close() // the table is the creation's
	return r.description(name, maxRead)
}

// lacks says which of the parent's chunks must be put again; nil where no damage is known.
func (c *creation) lacks() func(ChunkID) bool {
	lacks := c.writer.Lacks()
	if lacks == nil && c.parent != nil && c.parent.State == manifest.Invalid {
		// Its page tables are damaged, then: what they do not say is looked at too.
		return func(ChunkID) bool { return false }
	}
	return lacks
}

// create does what every create does around its capture: parent, catalogue
// entry, order of writes, and nothing left behind when it fails. run must call commit.
func (m *Manager) create(ctx context.Context, target string, kind manifest.TargetType, opts *CreateOptions, run func(*creation) error) (_ *Snapshot, err error) {
	if m.readOnly {
		return nil, ErrReadOnly
	}
	if err := manifest.ValidTarget(target); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if opts.Dirty != nil && (opts.Parent == "" || opts.Parent == ParentLatest || opts.Parent == ParentNone) {
		return nil, fmt.Errorf("arcstore: %w: a dirty bitmap says what changed since one snapshot: name that snapshot as the parent", ErrInvalid)
	}
	start := time.Now()
	c := &creation{m: m, start: start, dedup: opts.dedup, entry: &Snapshot{
		ID: manifest.NewID(), Name: opts.Name, TargetID: target, TargetType: kind, Created: start.UTC(),
		Description: opts.Description, Labels: opts.Labels, State: manifest.Creating,
	}}
	if opts.id == "" {
		c.entry.Host = capture.ThisHost()
	} else { // it comes from elsewhere
		c.entry.ID, c.entry.Created = opts.id, opts.created.UTC()
	}
	if err := c.begin(ctx, opts.Parent, opts.preCopied); err != nil {
		return nil, err
	}
	defer func() {
		if cerr := c.end(); err == nil && cerr != nil {
			err = cerr
		}
	}()
	if err := run(c); err != nil {
		if c.done {
			return c.entry, fmt.Errorf("arcstore: the snapshot %s is complete, but: %w", c.entry.ID, err)
		}
		return nil, wrapCreate(err)
	}
	if c.healed {
		m.recheck(ctx) // where that fails, the next verification does it
	}
	return c.entry, nil
}

// wrapCreate maps what lower floors call an invalid request to this package's sentinels.
func wrapCreate(err error) error {
	switch {
	case errors.Is(err, capture.ErrDirtyBitmap):
		return fmt.Errorf("%w: %w", ErrDirtyBitmap, err)
	case errors.Is(err, chunker.ErrBitmap), errors.Is(err, capture.ErrInvalid):
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return err
}

// begin resolves the parent and registers the creation, so that no garbage
// collection takes away what it builds on.
func (c *creation) begin(ctx context.Context, parent string, copied *preCopied) error {
	m := c.m
	m.mu.Lock()
	err := c.register(ctx, parent, copied)
	m.mu.Unlock()
	if err != nil {
		return err
	}
	if c.parent != nil {
		c.parentTable, err = m.openTable(ctx, c.parent)
		if IsCorrupt(err) && (parent == "" || parent == ParentLatest) {
			c.disown()
			err = nil
		}
		if err != nil {
			return errors.Join(err, c.end())
		}
	}
	if c.parent != nil {
		if c.parentTable.ChunkSize() != m.ChunkSize() {
			return errors.Join(fmt.Errorf("arcstore: snapshot %s: %w: another chunk size", c.parent.ID, ErrCorrupt), c.end())
		}
	}
	if c.writer, err = m.store.NewWriter(ctx); err == nil {
		c.builder, err = m.manifests.Build(ctx, m.ChunkSize(), c.parentTable)
	}
	if err == nil {
		err = m.catalogue.Put(ctx, c.entry, false)
	}
	if err != nil {
		return errors.Join(err, c.end())
	}
	return nil
}

// register resolves the parent and makes it a root; the caller holds m.mu.
func (c *creation) register(ctx context.Context, parent string, copied *preCopied) error {
	m := c.m
	entries, err := m.list(ctx)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.TargetID == c.entry.TargetID && e.TargetType != c.entry.TargetType {
			return fmt.Errorf("arcstore: %w: the target %s has snapshots of a %s, such as %s, and this is one of a %s: choose another name",
				ErrInvalid, e.TargetID, e.TargetType, e.ID, c.entry.TargetType)
		}
	}
	if copied != nil {
		c.parent, c.copied = copied.asParent(), copied.cost
		parent = ParentNone // it was resolved before
	}
	switch parent {
	case ParentNone:
	case "", ParentLatest:
		c.parent = latest(entries, c.entry.TargetID, manifest.Ready)
	default:
		e, err := m.getComplete(ctx, parent)
		if err != nil {
			return fmt.Errorf("arcstore: parent: %w", err)
		}
		if e.TargetType != c.entry.TargetType {
			return fmt.Errorf("arcstore: %w: the parent %s is a snapshot of a %s, and this is one of a %s", ErrInvalid, e.ID, e.TargetType, c.entry.TargetType)
		}
		c.parent = e
	}
	if c.parent != nil {
		c.entry.Parent = c.parent.ID
		m.parents[c.parent.Manifest]++
	}
	m.running[c.entry.ID] = true
	return nil
}

// disown goes on without the parent, which nobody asked for by name.
func (c *creation) disown() {
	m := c.m
	m.mu.Lock()
	defer m.mu.Unlock()
	m.dropParent(c.parent)
	c.parent, c.entry.Parent = nil, ""
}

// dropParent undoes what register did for a parent; the caller holds m.mu.
func (m *Manager) dropParent(parent *Snapshot) {
	if m.parents[parent.Manifest]--; m.parents[parent.Manifest] == 0 {
		delete(m.parents, parent.Manifest)
	}
}

// commit makes everything durable, in an order that never leaves a ready
// snapshot without its data: packs and manifest, then the entry.
func (c *creation) commit(ctx context.Context, stats capture.Stats) error {
	type built struct {
		digest manifest.Digest
		err    error
	}
	c.m.committing.RLock()
	defer c.m.committing.RUnlock()
	table := make(chan built, 1)
	go func() {
		digest, err := c.builder.Commit(ctx)
		table <- built{digest, err}
	}()
	written, err := c.writer.Commit()
	b := <-table
	if err := errors.Join(err, b.err); err != nil {
		return err
	}
	c.healed = written.Healed > 0
	c.dedup.add(stats, &written, int64(c.m.ChunkSize()))
	e := c.entry
	e.State = manifest.Ready
	e.Manifest = b.digest
	e.Size = stats.Size
	if e.Host != nil {
		e.Host.VMM, e.Host.VMMVersion = stats.VMM, stats.VMMVersion
	}
	e.Packs = packNames(written.Packs, c.parent)
	e.Cost = manifest.Cost{BytesScanned: stats.Scanned + c.copied.BytesScanned, BytesNew: written.Bytes + c.copied.BytesNew,
		BytesStored: written.Stored + c.copied.BytesStored, ChunksNew: written.Chunks + c.copied.ChunksNew,
		Duration: time.Since(c.start) + c.copied.Duration, Pause: e.Cost.Pause}
	err = c.m.catalogue.Put(ctx, e, true)
	c.done = err == nil
	return err
}

// end lets go of what the creation holds; of one that failed, nothing stays.
func (c *creation) end() error {
	m, ok := c.m, c.done
	var err error
	if c.builder != nil && !ok {
		c.builder.Abort()
	}
	if !ok {
		// The context is perhaps why it failed; the entry goes all the same.
		err = m.catalogue.Delete(context.Background(), c.entry.ID)
		if errors.Is(err, manifest.ErrNotFound) {
			err = nil
		}
	}
	if c.writer != nil {
		c.writer.Close()
	}
	if c.parentTable != nil {
		c.parentTable.Close()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if c.parent != nil {
		m.dropParent(c.parent)
	}
	delete(m.running, c.entry.ID)
	return err
}

// packNames joins the packs that a create used with those of its parent,
// which hold what it inherited.
func packNames(packs []store.PackID, parent *Snapshot) []string {
	seen := make(map[string]bool)
	var names []string
	add := func(name string) {
		if !seen[name] {
			seen[name] = true
			names = append(names, name)
		}
	}
	for _, id := range packs {
		add(id.String())
	}
	if parent != nil {
		for _, name := range parent.Packs {
			add(name)
		}
	}
	return names
}

// packIDs is the inverse of packNames. They are hints: what is no pack ID is passed over.
func packIDs(names []string) []store.PackID {
	ids := make([]store.PackID, 0, len(names))
	for _, name := range names {
		if id, err := store.ParsePackID(name); err == nil {
			ids = append(ids, id)
		}
	}
	return ids
}
