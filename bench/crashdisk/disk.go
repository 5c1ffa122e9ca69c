package crashdisk

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

// File is an open file. It is an alias, so that the packages under test may declare the same.
type File = interface {
	io.Writer
	io.ReaderAt
	io.Closer
	Name() string
	Sync() error
	Stat() (fs.FileInfo, error)
}

// Disk is a directory whose losses are known. It is safe for concurrent use.
type Disk struct {
	root    string
	foreign []string

	mu   sync.Mutex
	tree *node
	ops  int
	off  bool
	hook func(Op) error
}

// New returns the disk in root, a real directory. What is in it counts as
// durable, but for directories of the names in foreign: what others write there is not looked at before a Crash.
func New(root string, foreign ...string) (*Disk, error) {
	d := &Disk{root: filepath.Clean(root), foreign: foreign}
	var err error
	if d.tree, err = d.scan(d.root); err != nil {
		return nil, fmt.Errorf("crashdisk: %w", err)
	}
	return d, nil
}

func (d *Disk) scan(dir string) (*node, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	n := newDir()
	for _, e := range entries {
		name := filepath.Join(dir, e.Name())
		child := &node{}
		switch {
		case e.IsDir() && slices.Contains(d.foreign, e.Name()):
			continue
		case e.IsDir():
			child, err = d.scan(name)
		case e.Type().IsRegular():
			child.data, err = os.ReadFile(name)
			child.durable = child.data
		default:
			continue
		}
		if err != nil {
			return nil, err
		}
		n.live[e.Name()] = child
	}
	n.syncDir()
	return n, nil
}

// find returns the directory that name is in and the name's last part; nil where this disk does not know it.
func (d *Disk) find(name string) (dir *node, base string) {
	rel, err := filepath.Rel(d.root, name)
	if err != nil || rel == "." || rel == ".." || strings.HasPrefix(rel, "../") {
		return nil, ""
	}
	parts := strings.Split(rel, "/")
	dir = d.tree
	for _, p := range parts[:len(parts)-1] {
		if dir = dir.live[p]; dir == nil || !dir.dir {
			return nil, ""
		}
	}
	return dir, parts[len(parts)-1]
}

// lookup returns what is known of name, nil for nothing.
func (d *Disk) lookup(name string) *node {
	if filepath.Clean(name) == d.root {
		return d.tree
	}
	if dir, base := d.find(name); dir != nil {
		return dir.live[base]
	}
	return nil
}

// Mkdir makes one directory.
func (d *Disk) Mkdir(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	kind := Mkdir
	if d.lookup(name) != nil {
		kind = Stat // that it is there is said even on a full disk
	}
	if err := d.begin(kind, name, ""); err != nil {
		return err
	}
	if err := os.Mkdir(name, 0o700); err != nil {
		return err
	}
	if dir, base := d.find(name); dir != nil && !slices.Contains(d.foreign, base) {
		dir.set(base, newDir())
	}
	return nil
}

// Create makes a file with a new name that begins with ".tmp-".
func (d *Disk) Create(dir string) (File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.begin(Create, dir, ""); err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(dir, ".tmp-")
	if err != nil {
		return nil, err
	}
	n := &node{}
	if in, base := d.find(f.Name()); in != nil {
		in.set(base, n)
	}
	return &file{d: d, n: n, f: f, written: true}, nil
}

// Open opens a file for reading.
func (d *Disk) Open(name string) (File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.begin(Open, name, ""); err != nil {
		return nil, err
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	return &file{d: d, n: d.lookup(name), f: f}, nil
}

// Rename moves a file, in place of one that has the name already.
func (d *Disk) Rename(from, to string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.begin(Rename, to, from); err != nil {
		return err
	}
	n := d.lookup(from)
	if err := os.Rename(from, to); err != nil {
		return err
	}
	if n == nil || from == to {
		return nil
	}
	if dir, base := d.find(from); dir != nil {
		dir.set(base, nil)
	}
	if dir, base := d.find(to); dir != nil {
		dir.set(base, n)
	}
	return nil
}

// Remove removes a file, or an empty directory.
func (d *Disk) Remove(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.begin(Remove, name, ""); err != nil {
		return err
	}
	if err := os.Remove(name); err != nil {
		return err
	}
	if dir, base := d.find(name); dir != nil && dir.live[base] != nil {
		dir.set(base, nil)
	}
	return nil
}

// SyncDir makes the names in a directory durable.
func (d *Disk) SyncDir(dir string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.begin(SyncDir, dir, ""); err != nil {
		return err
	}
	if _, err := os.Stat(dir); err != nil {
		return err
	}
	if n := d.lookup(dir); n != nil && n.dir {
		n.syncDir()
	}
	return nil
}

// ReadDir lists a directory, sorted by name.
func (d *Disk) ReadDir(dir string) ([]fs.DirEntry, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.begin(ReadDir, dir, ""); err != nil {
		return nil, err
	}
	return os.ReadDir(dir)
}

// Stat describes a file or a directory.
func (d *Disk) Stat(name string) (fs.FileInfo, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.begin(Stat, name, ""); err != nil {
		return nil, err
	}
	return os.Stat(name)
}
