package crashdisk

import (
	"io/fs"
	"os"
)

// file is an open file of a Disk.
type file struct {
	d       *Disk
	n       *node // nil for one that the disk does not know
	f       *os.File
	written bool // made by Create
}

func (f *file) Name() string { return f.f.Name() }

func (f *file) Write(b []byte) (int, error) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	failure := f.d.begin(Write, f.Name(), "")
	if f.d.off {
		return 0, failure
	}
	if failure != nil {
		b = b[:len(b)/2]
	}
	n, err := f.f.Write(b)
	f.n.write(b[:n])
	if failure != nil {
		err = failure
	}
	return n, err
}

func (f *file) ReadAt(b []byte, off int64) (int, error) {
	f.d.mu.Lock()
	err := f.d.begin(ReadAt, f.Name(), "")
	f.d.mu.Unlock()
	if err != nil {
		return 0, err
	}
	return f.f.ReadAt(b, off)
}

func (f *file) Sync() error {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	err := f.d.begin(Sync, f.Name(), "")
	if f.n != nil && !f.d.off {
		f.n.sync(err == nil)
	}
	return err
}

func (f *file) Stat() (fs.FileInfo, error) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if err := f.d.begin(FileStat, f.Name(), ""); err != nil {
		return nil, err
	}
	return f.f.Stat()
}

// Close closes the file even where it fails.
func (f *file) Close() error {
	failure := error(nil)
	if f.written {
		f.d.mu.Lock()
		failure = f.d.begin(Close, f.Name(), "")
		f.d.mu.Unlock()
	}
	if err := f.f.Close(); failure == nil {
		return err
	}
	return failure
}
