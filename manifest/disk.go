package manifest

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// disk is all that this package does to files, so that tests can put one in
// that fails, or loses power.
type disk interface {
	// mkdir makes one directory, with mode 0700.
	mkdir(dir string) error
	// create makes a file with a new name that begins with tempPrefix, with mode 0600.
	create(dir string) (file, error)
	open(name string) (file, error)
	// rename moves a file, in place of one that has the name already.
	rename(from, to string) error
	remove(name string) error
	// syncDir makes the names in a directory durable.
	syncDir(dir string) error
	// names lists a directory, sorted.
	names(dir string) ([]string, error)
	size(name string) (int64, error)
}

// file is an open file of a disk.
type file interface {
	io.Writer
	io.ReaderAt
	io.Closer
	Name() string
	Sync() error
	Stat() (fs.FileInfo, error)
}

// tempPrefix marks files that are being written.
const tempPrefix = ".tmp-"

// osDisk is the operating system's.
type osDisk struct{}

func (osDisk) mkdir(dir string) error             { return os.Mkdir(dir, 0o700) }
func (osDisk) create(dir string) (file, error)    { return os.CreateTemp(dir, tempPrefix) }
func (osDisk) open(name string) (file, error)     { return os.Open(name) }
func (osDisk) rename(from, to string) error       { return os.Rename(from, to) }
func (osDisk) remove(name string) error           { return os.Remove(name) }
func (osDisk) names(dir string) ([]string, error) { return readNames(dir) }

func (osDisk) syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if cerr := d.Close(); err == nil {
		err = cerr
	}
	return err
}

func (osDisk) size(name string) (int64, error) {
	info, err := os.Stat(name)
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

func readNames(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names, err
}

// makeDir makes sure that a directory exists. One that is new is made durable
// at once: who finds it later takes it for granted.
func makeDir(d disk, dir string) error {
	err := d.mkdir(dir)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	parent := filepath.Dir(dir)
	if errors.Is(err, fs.ErrNotExist) && parent != dir {
		if err = makeDir(d, parent); err == nil {
			err = d.mkdir(dir)
		}
	}
	if err != nil {
		return err
	}
	return d.syncDir(parent)
}

// createTemp makes a new file in dir, and dir too.
func createTemp(d disk, dir string) (file, error) {
	if err := makeDir(d, dir); err != nil {
		return nil, err
	}
	return d.create(dir)
}

// moveInto closes a complete file and gives it its name; if it cannot, the
// file is gone. Where durable, the file and its name outlive a loss of power.
func moveInto(d disk, f file, name string, durable bool) error {
	err := error(nil)
	if durable {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	dir := filepath.Dir(name)
	if err == nil {
		err = makeDir(d, dir)
	}
	if err == nil {
		err = d.rename(f.Name(), name)
	}
	if err != nil {
		d.remove(f.Name())
		return err
	}
	if durable {
		return d.syncDir(dir)
	}
	return nil
}

// removeTemporary removes the files that writers left behind.
func removeTemporary(d disk, dir string) (int, error) {
	names, err := d.names(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("manifest: %w", err)
	}
	n := 0
	for _, name := range names {
		if strings.HasPrefix(name, tempPrefix) {
			if err := d.remove(filepath.Join(dir, name)); err != nil {
				return n, fmt.Errorf("manifest: %w", err)
			}
			n++
		}
	}
	return n, nil
}

// readBounded reads a file of at most limit bytes.
func readBounded(d disk, name string, limit int64) ([]byte, error) {
	f, err := d.open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Size() > limit {
		return nil, &CorruptError{File: filepath.Base(name), Why: fmt.Sprintf("it is larger than %d bytes", limit)}
	}
	b := make([]byte, info.Size())
	if _, err := f.ReadAt(b, 0); err != nil && (err != io.EOF || len(b) > 0) {
		return nil, err
	}
	return b, nil
}
