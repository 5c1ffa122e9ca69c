package manifest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/arcboxlabs/arcstore/store/disk"
)

const (
	entrySuffix = ".json"
	// pendingSuffix is that of entries that were Put without being made durable.
	// A loss of power may leave such a file empty or torn; under a name of its own it
	// is never taken for a damaged snapshot.
	pendingSuffix = ".pending"
)

// Catalogue is the directory that lists a store's snapshots, a file each.
// It is safe for concurrent use; of two Puts of one entry the last one wins.
type Catalogue struct {
	dir  string
	disk disk.Disk
}

// OpenCatalogue returns the catalogue in dir, which need not exist yet, on a disk; nil is the operating system's.
func OpenCatalogue(dir string, d disk.Disk) *Catalogue { return &Catalogue{dir, orOS(d)} }

func (c *Catalogue) path(id, suffix string) string { return filepath.Join(c.dir, id+suffix) }

// Put writes an entry, in place of one of the same ID, and sets e.Format.
// Where durable, it outlives a loss of power; otherwise it may be gone after
// one, and it does not replace one that is durable.
func (c *Catalogue) Put(ctx context.Context, e *Entry, durable bool) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	b, err := e.encode()
	if err != nil {
		return fmt.Errorf("manifest: entry %q: %w", e.ID, err)
	}
	suffix := entrySuffix
	if !durable {
		suffix = pendingSuffix
	}
	if err := disk.WriteFile(c.disk, c.path(e.ID, suffix), b, durable); err != nil {
		return fmt.Errorf("manifest: write entry %s: %w", e.ID, err)
	}
	if durable {
		// The pending one is out of sight already; what stays of it is a leftover.
		c.disk.Remove(c.path(e.ID, pendingSuffix))
	}
	return nil
}

// Get reads one entry: ErrNotFound, or a *CorruptError if it is damaged.
func (c *Catalogue) Get(ctx context.Context, id string) (*Entry, error) {
	if err := ValidID(id); err != nil {
		return nil, err
	}
	// An entry that becomes durable between the first two looks is found by the third.
	for _, suffix := range []string{entrySuffix, pendingSuffix, entrySuffix} {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		e, err := c.read(id, suffix)
		switch {
		case err == nil:
			return e, nil
		case errors.Is(err, fs.ErrNotExist):
		case suffix == pendingSuffix && errors.Is(err, ErrCorrupt): // what a loss of power left
		case errors.Is(err, ErrCorrupt):
			return nil, err
		default:
			return nil, fmt.Errorf("manifest: entry %s: %w", id, err)
		}
	}
	return nil, fmt.Errorf("manifest: entry %s: %w", id, ErrNotFound)
}

// read reads one file: fs.ErrNotExist, ErrVersion, or a *CorruptError if it is damaged.
func (c *Catalogue) read(id, suffix string) (*Entry, error) {
	b, err := disk.ReadFile(c.disk, c.path(id, suffix), maxEntry)
	if errors.Is(err, disk.ErrTooLarge) {
		return nil, &CorruptError{File: id + suffix, Why: err.Error()}
	}
	if err != nil {
		return nil, err
	}
	e, err := decodeEntry(b)
	if errors.Is(err, ErrVersion) {
		return nil, err
	}
	if err == nil && e.ID != id {
		err = errors.New("it is the entry of another snapshot")
	}
	if err != nil {
		return nil, &CorruptError{File: id + suffix, Why: err.Error()}
	}
	return e, nil
}

// List returns all entries, oldest first. Those that are damaged, or newer
// than this program, do not hide the others: it returns what it could read
// together with an error that joins a *CorruptError, or one that wraps
// ErrVersion, for each. After any other error it returns no entries.
func (c *Catalogue) List(ctx context.Context) ([]*Entry, error) {
	ids, err := c.ids()
	if err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	var entries []*Entry
	var bad []error
	for _, id := range ids {
		e, err := c.Get(ctx, id)
		switch {
		case err == nil:
			entries = append(entries, e)
		case errors.Is(err, ErrNotFound): // deleted meanwhile, or never complete
		case errors.Is(err, ErrCorrupt), errors.Is(err, ErrVersion):
			bad = append(bad, err)
		default:
			return nil, err
		}
	}
	slices.SortFunc(entries, func(a, b *Entry) int {
		return cmp.Or(a.Created.Compare(b.Created), strings.Compare(a.ID, b.ID))
	})
	return entries, errors.Join(bad...)
}

// ids lists the IDs that the directory has files for, each once.
func (c *Catalogue) ids() ([]string, error) {
	names, err := c.names()
	var ids []string
	for _, name := range names {
		id, ok := strings.CutSuffix(name, entrySuffix)
		if !ok {
			id, ok = strings.CutSuffix(name, pendingSuffix)
		}
		if ok && checkID(id) == nil {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids), err
}

// names lists the directory, sorted.
func (c *Catalogue) names() ([]string, error) {
	entries, err := c.disk.ReadDir(c.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names, err
}

// Delete removes an entry for good; ErrNotFound if there is none.
func (c *Catalogue) Delete(ctx context.Context, id string) error {
	if err := ValidID(id); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	// The pending one first: a durable one that hid it must not give way to it.
	found := false
	for _, suffix := range []string{pendingSuffix, entrySuffix} {
		err := c.disk.Remove(c.path(id, suffix))
		if err == nil {
			found = true
		} else if !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("manifest: delete entry %s: %w", id, err)
		}
	}
	if !found {
		return fmt.Errorf("manifest: entry %s: %w", id, ErrNotFound)
	}
	if err := c.disk.SyncDir(c.dir); err != nil {
		return fmt.Errorf("manifest: delete entry %s: %w", id, err)
	}
	return nil
}

// Temporary says how many files RemoveTemporary would remove, and how many bytes they have.
func (c *Catalogue) Temporary() (n int, bytes int64, err error) {
	n, bytes, err = disk.Temporary(c.disk, c.dir)
	if err != nil {
		return 0, 0, fmt.Errorf("manifest: %w", err)
	}
	torn, err := c.torn()
	return n + len(torn), bytes + disk.Size(c.disk, torn), err
}

// Sync makes durable which entries there are, whoever put or deleted them.
func (c *Catalogue) Sync() error {
	if err := c.disk.SyncDir(c.dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("manifest: sync entries: %w", err)
	}
	return nil
}

// RemoveTemporary removes what interrupted Puts left behind, and says how
// many files those were. No Put may be running.
func (c *Catalogue) RemoveTemporary() (int, error) {
	n, err := disk.RemoveTemporary(c.disk, c.dir)
	if err != nil {
		return n, fmt.Errorf("manifest: %w", err)
	}
	torn, err := c.torn()
	if err != nil {
		return n, err
	}
	for _, name := range torn {
		if err := c.disk.Remove(name); err != nil {
			return n, fmt.Errorf("manifest: %w", err)
		}
		n++
	}
	return n, nil
}

// torn lists the pending entries that say nothing, or nothing anymore.
func (c *Catalogue) torn() ([]string, error) {
	names, err := c.names()
	if err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	var torn []string
	for _, name := range names {
		id, ok := strings.CutSuffix(name, pendingSuffix)
		if !ok || checkID(id) != nil {
			continue
		}
		_, err := c.read(id, pendingSuffix)
		if _, hidden := slices.BinarySearch(names, id+entrySuffix); hidden || errors.Is(err, ErrCorrupt) {
			torn = append(torn, c.path(id, pendingSuffix))
		}
	}
	return torn, nil
}
