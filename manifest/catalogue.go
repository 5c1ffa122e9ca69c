package manifest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

const entrySuffix = ".json"

// Catalogue is the directory that lists a store's snapshots, a file each.
// It is safe for concurrent use; of two Puts of one entry the last one wins.
type Catalogue struct{ dir string }

// OpenCatalogue returns the catalogue in dir, which need not exist yet.
func OpenCatalogue(dir string) *Catalogue { return &Catalogue{dir} }

func (c *Catalogue) path(id string) string { return filepath.Join(c.dir, id+entrySuffix) }

// Put writes an entry, in place of one of the same ID. Where durable, it outlives a loss of power.
func (c *Catalogue) Put(ctx context.Context, e *Entry, durable bool) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	b, err := e.encode()
	if err != nil {
		return fmt.Errorf("manifest: entry %s: %w", e.ID, err)
	}
	f, err := createTemp(c.dir)
	if err != nil {
		return fmt.Errorf("manifest: %w", err)
	}
	if _, err := f.Write(b); err != nil {
		f.Close()
		os.Remove(f.Name())
		return fmt.Errorf("manifest: write entry %s: %w", e.ID, err)
	}
	if err := moveInto(f, c.path(e.ID), durable); err != nil {
		return fmt.Errorf("manifest: write entry %s: %w", e.ID, err)
	}
	return nil
}

// Get reads one entry: ErrNotFound, or a *CorruptError if it is damaged.
func (c *Catalogue) Get(ctx context.Context, id string) (*Entry, error) {
	if err := ValidID(id); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	b, err := readBounded(c.path(id), maxEntry)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("manifest: entry %s: %w", id, ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("manifest: entry %s: %w", id, err)
	}
	e, err := decodeEntry(b)
	if errors.Is(err, ErrVersion) {
		return nil, fmt.Errorf("manifest: entry %s: %w", id, err)
	}
	if err == nil && e.ID != id {
		err = errors.New("it is the entry of another snapshot")
	}
	if err != nil {
		return nil, &CorruptError{File: id + entrySuffix, Why: err.Error()}
	}
	return e, nil
}

// List returns all entries, oldest first. Damaged ones do not hide the
// others: it returns those that it could read together with an error that joins a *CorruptError for each.
func (c *Catalogue) List(ctx context.Context) ([]*Entry, error) {
	files, err := os.ReadDir(c.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	var entries []*Entry
	var bad []error
	for _, f := range files {
		id, ok := strings.CutSuffix(f.Name(), entrySuffix)
		if !ok || ValidID(id) != nil {
			continue
		}
		e, err := c.Get(ctx, id)
		switch {
		case err == nil:
			entries = append(entries, e)
		case errors.Is(err, ErrNotFound): // deleted meanwhile
		case errors.As(err, new(*CorruptError)):
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

// Delete removes an entry for good; ErrNotFound if there is none.
func (c *Catalogue) Delete(ctx context.Context, id string) error {
	if err := ValidID(id); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	err := removeDurable(c.path(id))
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("manifest: entry %s: %w", id, ErrNotFound)
	}
	if err != nil {
		return fmt.Errorf("manifest: delete entry %s: %w", id, err)
	}
	return nil
}

// RemoveTemporary removes what interrupted Puts left behind, and says how
// many files those were. No Put may be running.
func (c *Catalogue) RemoveTemporary() (int, error) { return removeTemporary(c.dir) }
