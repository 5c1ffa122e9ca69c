package manifest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Files is the directory that holds a store's manifests, each under its
// digest. It is safe for concurrent use.
type Files struct{ dir string }

// OpenFiles returns the manifests in dir, which need not exist yet.
func OpenFiles(dir string) *Files { return &Files{dir} }

func (f *Files) path(d Digest) string {
	name := d.String()
	return filepath.Join(f.dir, name[:2], name)
}

// List returns the digests of all manifests.
func (f *Files) List(ctx context.Context) ([]Digest, error) {
	dirs, err := os.ReadDir(f.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	var out []Digest
	for _, d := range dirs {
		if !d.IsDir() {
			continue
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		files, err := os.ReadDir(filepath.Join(f.dir, d.Name()))
		if err != nil {
			return nil, fmt.Errorf("manifest: %w", err)
		}
		for _, file := range files {
			if digest, err := ParseDigest(file.Name()); err == nil {
				out = append(out, digest)
			}
		}
	}
	return out, nil
}

// Size returns the length of a manifest's file, in bytes.
func (f *Files) Size(d Digest) (int64, error) {
	info, err := os.Stat(f.path(d))
	if err != nil {
		return 0, f.wrap(d, err)
	}
	return info.Size(), nil
}

// Remove deletes a manifest. What has it for a parent cannot be read afterwards.
func (f *Files) Remove(d Digest) error {
	if err := os.Remove(f.path(d)); err != nil {
		return f.wrap(d, err)
	}
	return nil
}

// RemoveTemporary removes what interrupted builders left behind, and says how
// many files those were. No Builder may be at work.
func (f *Files) RemoveTemporary() (int, error) { return removeTemporary(f.dir) }

func (f *Files) wrap(d Digest, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("manifest: %s: %w", d, ErrNotFound)
	}
	return fmt.Errorf("manifest: %w", err)
}

// layer is one open manifest file.
type layer struct {
	digest Digest
	f      *os.File
	root   *root
	end    int64 // of its leaves
}

func (l *layer) corrupt(why string) error { return &CorruptError{File: l.digest.String(), Why: why} }

// openLayer opens one file and checks its root against the digest.
func (f *Files) openLayer(d Digest) (*layer, error) {
	file, err := os.Open(f.path(d))
	if err != nil {
		return nil, f.wrap(d, err)
	}
	l := &layer{digest: d, f: file}
	if err := l.read(); err != nil {
		file.Close()
		return nil, err
	}
	return l, nil
}

func (l *layer) read() error {
	info, err := l.f.Stat()
	if err != nil {
		return fmt.Errorf("manifest: %w", err)
	}
	size := info.Size()
	if size < headerSize+footerSize {
		return l.corrupt("it is too short")
	}
	footer := make([]byte, footerSize)
	if _, err := l.f.ReadAt(footer, size-footerSize); err != nil {
		return fmt.Errorf("manifest: read %s: %w", l.digest, err)
	}
	offset, length, err := decodeFooter(footer, size)
	if err != nil {
		return l.wrap(err)
	}
	b := make([]byte, length)
	if _, err := l.f.ReadAt(b, offset); err != nil {
		return fmt.Errorf("manifest: read %s: %w", l.digest, err)
	}
	if digestOf(b) != l.digest {
		return l.corrupt("its root does not hash to its name")
	}
	if l.root, err = decodeRoot(b, offset); err != nil {
		return l.wrap(err)
	}
	l.end = offset
	return nil
}

// wrap makes an error of a decoder one that names the file.
func (l *layer) wrap(err error) error {
	if errors.Is(err, ErrVersion) {
		return fmt.Errorf("manifest: %s: %w", l.digest, err)
	}
	return l.corrupt(err.Error())
}
