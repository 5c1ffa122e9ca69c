package manifest

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/arcboxlabs/arcstore/store/disk"
)

var errDisk = errors.New("simulated failure of the disk")

// memDisk is a disk in memory, for what is done very often; it fails on demand.
type memDisk struct {
	mu   sync.Mutex
	root *memNode
	temp int

	ops   int
	fails func(op int) bool // nil: never
}

// memNode is a file or a directory.
type memNode struct {
	data []byte
	live map[string]*memNode // nil for a file
}

func newDir() *memNode {
	return &memNode{live: map[string]*memNode{}}
}

func newMemDisk() *memDisk { return &memDisk{root: newDir()} }

// op counts an operation and says whether it fails.
func (d *memDisk) op() error {
	d.ops++
	if d.fails != nil && d.fails(d.ops) {
		return errDisk
	}
	return nil
}

// find returns the directory that name is in, and what is there: nil for nothing.
func (d *memDisk) find(name string) (dir *memNode, base string, n *memNode, err error) {
	dir = d.root
	parts := strings.Split(strings.Trim(path.Clean("/"+name), "/"), "/")
	for _, p := range parts[:len(parts)-1] {
		if dir = dir.live[p]; dir == nil || dir.live == nil {
			return nil, "", nil, fs.ErrNotExist
		}
	}
	base = parts[len(parts)-1]
	if base == "" {
		return dir, "", dir, nil
	}
	return dir, base, dir.live[base], nil
}

func (d *memDisk) existing(name string) (*memNode, error) {
	if err := d.op(); err != nil {
		return nil, err
	}
	_, _, n, err := d.find(name)
	if err == nil && n == nil {
		err = fs.ErrNotExist
	}
	return n, err
}

func (d *memDisk) Mkdir(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.op(); err != nil {
		return err
	}
	dir, base, n, err := d.find(name)
	if err == nil && n != nil {
		err = fs.ErrExist
	}
	if err == nil {
		dir.live[base] = newDir()
	}
	return err
}

func (d *memDisk) Create(dir string) (disk.File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n, err := d.existing(dir)
	if err != nil {
		return nil, err
	}
	d.temp++
	base := fmt.Sprintf("%s%d", disk.TempPrefix, d.temp)
	n.live[base] = &memNode{}
	return &memFile{d: d, n: n.live[base], name: path.Join(dir, base)}, nil
}

func (d *memDisk) Open(name string) (disk.File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n, err := d.existing(name)
	if err != nil {
		return nil, err
	}
	return &memFile{d: d, n: n, name: name}, nil
}

func (d *memDisk) Rename(from, to string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	n, err := d.existing(from)
	if err != nil {
		return err
	}
	dir, base, _, err := d.find(to)
	if err != nil {
		return err
	}
	old, oldBase, _, _ := d.find(from)
	delete(old.live, oldBase)
	dir.live[base] = n
	return nil
}

func (d *memDisk) Remove(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, err := d.existing(name); err != nil {
		return err
	}
	dir, base, _, _ := d.find(name)
	delete(dir.live, base)
	return nil
}

func (d *memDisk) SyncDir(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, err := d.existing(name)
	return err
}

func (d *memDisk) ReadDir(dir string) ([]fs.DirEntry, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n, err := d.existing(dir)
	if err != nil {
		return nil, err
	}
	var entries []fs.DirEntry
	for _, name := range slices.Sorted(maps.Keys(n.live)) {
		entries = append(entries, fs.FileInfoToDirEntry(memInfo{name: name, size: int64(len(n.live[name].data))}))
	}
	return entries, nil
}

func (d *memDisk) Stat(name string) (fs.FileInfo, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n, err := d.existing(name)
	if err != nil {
		return nil, err
	}
	return memInfo{name: path.Base(name), size: int64(len(n.data))}, nil
}

// memFile is an open memNode.
type memFile struct {
	d    *memDisk
	n    *memNode
	name string
}

func (f *memFile) Name() string { return f.name }
func (f *memFile) Close() error { return nil }

func (f *memFile) Write(b []byte) (int, error) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if err := f.d.op(); err != nil {
		f.n.data = append(f.n.data, b[:len(b)/2]...)
		return len(b) / 2, err
	}
	f.n.data = append(f.n.data, b...)
	return len(b), nil
}

func (f *memFile) ReadAt(b []byte, off int64) (int, error) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if err := f.d.op(); err != nil {
		return 0, err
	}
	if off > int64(len(f.n.data)) {
		return 0, io.EOF
	}
	n := copy(b, f.n.data[off:])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

func (f *memFile) Sync() error {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	return f.d.op()
}

type memInfo struct {
	fs.FileInfo
	name string
	size int64
}

func (i memInfo) Name() string { return i.name }

func (i memInfo) Size() int64 { return i.size }

func (f *memFile) Stat() (fs.FileInfo, error) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	return memInfo{size: int64(len(f.n.data))}, f.d.op()
}
