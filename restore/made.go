package restore

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
)

// made is what a restore to files has made so far, so that one that fails can
// take it back. What was there before, and what took its place, stays.
type made struct {
	root    *os.Root
	outside []string // the directory itself, and those above it
	inside  []string // files and directories below root
}

// openDir opens dir, which it makes with what is missing above it.
func openDir(dir string) (*made, error) {
	m := &made{}
	err := m.mkdirAll(filepath.Clean(dir))
	if err == nil {
		m.root, err = os.OpenRoot(dir)
	}
	if err != nil {
		m.undo()
		return nil, err
	}
	return m, nil
}

func (m *made) mkdirAll(dir string) error {
	if info, err := os.Stat(dir); err == nil && info.IsDir() {
		return nil
	}
	err := os.Mkdir(dir, 0o700)
	if above := filepath.Dir(dir); errors.Is(err, fs.ErrNotExist) && above != dir {
		if err := m.mkdirAll(above); err != nil {
			return err
		}
		err = os.Mkdir(dir, 0o700)
	}
	if err == nil {
		m.outside = append(m.outside, dir)
	}
	return err
}

// mkdirFor makes the directories that a file below root lies in.
func (m *made) mkdirFor(name string) error {
	dir := path.Dir(name)
	if dir == "." {
		return nil
	}
	if info, err := m.root.Stat(dir); err == nil && info.IsDir() {
		return nil
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := m.mkdirFor(dir); err != nil {
		return err
	}
	if err := m.root.Mkdir(dir, 0o700); err != nil {
		return err
	}
	m.inside = append(m.inside, dir)
	return nil
}

// undo removes it all; a directory that somebody else has put something into stays.
func (m *made) undo() {
	for _, name := range slices.Backward(m.inside) {
		m.root.Remove(name)
	}
	for _, name := range slices.Backward(m.outside) {
		os.Remove(name)
	}
}
