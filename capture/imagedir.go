package capture

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/arcboxlabs/arcstore/capture/criu"
)

const (
	inventoryImage = "inventory.img"
	parentLink     = "parent"
)

// imageDir is the open files of an image directory, and of its ancestors as
// far as they are used.
type imageDir struct {
	holder string // the directory that the first image directory lies in, its real path
	root   *os.Root
	seen   map[string]bool // directories of the chain, by their paths in holder
	next   string          // the last of them, likewise
	closer closers
}

type closers []io.Closer

// Close closes them all.
func (c closers) Close() error {
	var errs []error
	for _, each := range c {
		errs = append(errs, each.Close())
	}
	return errors.Join(errs...)
}

// OpenDir opens the images that CRIU wrote into a directory: every regular
// file in it, logs included. Incremental images come back merged with those
// that they build on (see [criu.Flatten]), so that they restore alone.
//
// What they build on is found as CRIU finds it, by the link named parent. It
// is followed only as far as the directory that dir lies in reaches, so that
// images from elsewhere cannot point at what is not theirs; a chain that
// comes back to itself is an error. Other symbolic links, devices and sockets
// in dir are refused, and directories passed over.
//
// The files stay open until the closer is called; they must not change meanwhile.
func OpenDir(dir string) (criu.Images, io.Closer, error) {
	real, err := filepath.Abs(dir)
	if err == nil {
		real, err = filepath.EvalSymlinks(real)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("capture: %w", err)
	}
	if _, err := os.Lstat(filepath.Join(real, inventoryImage)); errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("capture: %s is no directory of CRIU images: it has no %s", dir, inventoryImage)
	}
	d := &imageDir{holder: filepath.Dir(real), seen: map[string]bool{}}
	if d.root, err = os.OpenRoot(d.holder); err != nil {
		return nil, nil, fmt.Errorf("capture: %w", err)
	}
	defer d.root.Close()
	images, err := d.open(filepath.Base(real), func(string) bool { return true })
	if err == nil {
		images, err = criu.Flatten(images, d.parent)
	}
	if err != nil {
		d.closer.Close()
		return nil, nil, fmt.Errorf("capture: %s: %w", dir, err)
	}
	return images, d.closer, nil
}

// open opens those files of a directory in the holder that want accepts.
func (d *imageDir) open(rel string, want func(name string) bool) (criu.Images, error) {
	d.seen[rel], d.next = true, rel
	dir, err := d.root.Open(rel)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	entries, err := dir.ReadDir(-1)
	if err != nil {
		return nil, err
	}
	images := criu.Images{}
	for _, e := range entries {
		switch name := e.Name(); {
		case e.IsDir() || name == parentLink || !want(name):
		case !e.Type().IsRegular():
			return nil, fmt.Errorf("%s is not a regular file, as all of CRIU's images are", filepath.Join(rel, name))
		default:
			f, err := d.openFile(filepath.Join(rel, name))
			if err != nil {
				return nil, err
			}
			d.closer = append(d.closer, f)
			images[name] = f
		}
	}
	return images, nil
}

// openFile opens a regular file, and nothing that has just taken its place.
func (d *imageDir) openFile(rel string) (*File, error) {
	f, err := d.root.OpenFile(rel, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	src, err := newFile(f, rel)
	if err != nil {
		return nil, err
	}
	was, err := d.root.Lstat(rel)
	if err == nil {
		var is fs.FileInfo
		if is, err = f.Stat(); err == nil && !os.SameFile(was, is) {
			err = fmt.Errorf("%s was replaced while it was opened", rel)
		}
	}
	if err != nil {
		src.Close()
		return nil, err
	}
	return src, nil
}

// parent opens the directory that the last one builds on, and returns nil if
// there is none. Only memory is looked for there.
func (d *imageDir) parent() (criu.Images, error) {
	link := filepath.Join(d.holder, d.next, parentLink)
	real, err := filepath.EvalSymlinks(link)
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Lstat(link); errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
	}
	if err != nil {
		return nil, fmt.Errorf("the directory that it builds on: %w", err)
	}
	rel, err := filepath.Rel(d.holder, real)
	switch {
	case err != nil || !filepath.IsLocal(rel):
		return nil, fmt.Errorf("it builds on %s, which is not in %s: move the directories of the chain together", real, d.holder)
	case d.seen[rel]:
		return nil, fmt.Errorf("it builds on itself, by the links named %s of %s and others", parentLink, rel)
	}
	return d.open(rel, func(name string) bool {
		return strings.HasPrefix(name, "pagemap-") || strings.HasPrefix(name, "pages-")
	})
}
