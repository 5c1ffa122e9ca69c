package manifest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"

	"github.com/arcboxlabs/arcstore/store/crypt"
	"github.com/arcboxlabs/arcstore/store/disk"
)

// Files is the directory that holds a store's manifests, each under its
// digest. It is safe for concurrent use.
type Files struct {
	dir  string
	disk disk.Disk
	seal *crypt.Sealer // of leaves and roots; nil in a store without encryption
}

// OpenFiles returns the manifests in dir, which need not exist yet, on a disk; nil is the operating system's.
func OpenFiles(dir string, d disk.Disk) *Files { return &Files{dir: dir, disk: orOS(d)} }

// OpenSealedFiles is OpenFiles for the manifests of an encrypted store with a key.
func OpenSealedFiles(dir string, d disk.Disk, key *crypt.Key) *Files {
	return &Files{dir, orOS(d), key.Sealer("manifest")}
}

// Contexts of what is sealed.
const (
	leafContext = "leaf"
	rootContext = "root"
)

func (f *Files) path(d Digest) string {
	name := d.String()
	return filepath.Join(f.dir, name[:2], name)
}

// List returns the digests of all manifests, sorted.
func (f *Files) List(ctx context.Context) ([]Digest, error) {
	dirs, err := f.disk.ReadDir(f.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	var out []Digest
	for _, sub := range dirs {
		dir := sub.Name()
		if len(dir) != 2 {
			continue
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		files, err := f.disk.ReadDir(filepath.Join(f.dir, dir))
		if err != nil {
			return nil, fmt.Errorf("manifest: %w", err)
		}
		for _, file := range files {
			if d, err := ParseDigest(file.Name()); err == nil && file.Name()[:2] == dir {
				out = append(out, d)
			}
		}
	}
	return out, nil
}

// Size returns the length of a manifest's file, in bytes.
func (f *Files) Size(d Digest) (int64, error) {
	info, err := f.disk.Stat(f.path(d))
	if err != nil {
		return 0, f.wrap(d, err)
	}
	return info.Size(), nil
}

// OpenFile opens a manifest's file, to be copied elsewhere as it is. It must be closed.
func (f *Files) OpenFile(d Digest) (disk.File, error) {
	file, err := f.disk.Open(f.path(d))
	if err != nil {
		return nil, f.wrap(d, err)
	}
	return file, nil
}

// Import adds a manifest that was made elsewhere, from its file of size bytes, and verifies it. One that is there is
// left as it is. Its ancestors must be there before anything refers to it.
func (f *Files) Import(ctx context.Context, d Digest, file io.ReaderAt, size int64) error {
	if f.Verify(ctx, d) == nil {
		return nil
	}
	if err := f.copyIn(d, io.NewSectionReader(file, 0, size)); err != nil {
		return fmt.Errorf("manifest: import %s: %w", d, err)
	}
	err := f.Verify(ctx, d)
	if err != nil {
		f.Remove(d)
	}
	return err
}

func (f *Files) copyIn(d Digest, r io.Reader) error {
	if err := disk.MakeDir(f.disk, f.dir); err != nil {
		return err
	}
	tmp, err := disk.CreateIn(f.disk, f.dir)
	if err != nil {
		return err
	}
	if _, err = io.Copy(tmp, r); err == nil {
		return disk.MoveInto(f.disk, tmp, f.path(d), true)
	}
	tmp.Close()
	f.disk.Remove(tmp.Name())
	return err
}

// Remove deletes a manifest. What has it for a parent cannot be read
// afterwards. A loss of power may bring it back.
func (f *Files) Remove(d Digest) error {
	if err := f.disk.Remove(f.path(d)); err != nil {
		return f.wrap(d, err)
	}
	return nil
}

// Temporary says how many files RemoveTemporary would remove, and how many bytes they have.
func (f *Files) Temporary() (n int, bytes int64, err error) {
	if n, bytes, err = disk.Temporary(f.disk, f.dir); err != nil {
		err = fmt.Errorf("manifest: %w", err)
	}
	return n, bytes, err
}

// Sync makes durable what a process that was killed made in the directory.
func (f *Files) Sync() error {
	if err := f.disk.SyncDir(f.dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("manifest: sync: %w", err)
	}
	return nil
}

// RemoveTemporary removes what interrupted builders left behind, and says how
// many files those were. No Builder may be at work.
func (f *Files) RemoveTemporary() (int, error) {
	n, err := disk.RemoveTemporary(f.disk, f.dir)
	if err != nil {
		err = fmt.Errorf("manifest: %w", err)
	}
	return n, err
}

func orOS(d disk.Disk) disk.Disk {
	if d == nil {
		return disk.OS
	}
	return d
}
