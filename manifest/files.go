package manifest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
)

// Files is the directory that holds a store's manifests, each under its
// digest. It is safe for concurrent use.
type Files struct {
	dir  string
	disk disk
}

// OpenFiles returns the manifests in dir, which need not exist yet.
func OpenFiles(dir string) *Files { return &Files{dir, osDisk{}} }

func (f *Files) path(d Digest) string {
	name := d.String()
	return filepath.Join(f.dir, name[:2], name)
}

// List returns the digests of all manifests, sorted.
func (f *Files) List(ctx context.Context) ([]Digest, error) {
	dirs, err := f.disk.names(f.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	var out []Digest
	for _, dir := range dirs {
		if len(dir) != 2 {
			continue
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		names, err := f.disk.names(filepath.Join(f.dir, dir))
		if err != nil {
			return nil, fmt.Errorf("manifest: %w", err)
		}
		for _, name := range names {
			if d, err := ParseDigest(name); err == nil && name[:2] == dir {
				out = append(out, d)
			}
		}
	}
	return out, nil
}

// Size returns the length of a manifest's file, in bytes.
func (f *Files) Size(d Digest) (int64, error) {
	size, err := f.disk.size(f.path(d))
	if err != nil {
		return 0, f.wrap(d, err)
	}
	return size, nil
}

// Remove deletes a manifest. What has it for a parent cannot be read
// afterwards. A loss of power may bring it back.
func (f *Files) Remove(d Digest) error {
	if err := f.disk.remove(f.path(d)); err != nil {
		return f.wrap(d, err)
	}
	return nil
}

// RemoveTemporary removes what interrupted builders left behind, and says how
// many files those were. No Builder may be at work.
func (f *Files) RemoveTemporary() (int, error) { return removeTemporary(f.disk, f.dir) }
