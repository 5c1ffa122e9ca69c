// Package disk is what the store and the manifests do to files, in so few
// operations that a test can put a [Disk] in that fails, or loses power. It
// knows neither packs nor manifests.
//
// [OS] is the operating system's. [MoveInto] and [WriteFile] are how a file comes to be
// there whole or not at all.
package disk

import (
	"io"
	"io/fs"
	"os"
)

// TempPrefix begins the names of files that are being written.
const TempPrefix = ".tmp-"

// Disk is a file system. It is safe for concurrent use.
type Disk interface {
	// Mkdir makes one directory, with mode 0700.
	Mkdir(dir string) error
	// Create makes a file with a new name that begins with TempPrefix, with mode 0600.
	Create(dir string) (File, error)
	// Open opens a file for reading.
	Open(name string) (File, error)
	// Rename moves a file, in place of one that has the name already.
	Rename(from, to string) error
	// Remove removes a file or an empty directory.
	Remove(name string) error
	// SyncDir makes the names in a directory durable.
	SyncDir(dir string) error
	// ReadDir lists a directory, sorted by name.
	ReadDir(dir string) ([]fs.DirEntry, error)
	Stat(name string) (fs.FileInfo, error)
}

// File is an open file of a Disk. It is an alias, so that a Disk need not import this package.
type File = interface {
	io.Writer
	io.ReaderAt
	io.Closer
	Name() string
	Sync() error
	Stat() (fs.FileInfo, error)
}

// OS is the operating system's disk.
var OS Disk = system{}

type system struct{}

func (system) Mkdir(dir string) error                    { return os.Mkdir(dir, 0o700) }
func (system) Open(name string) (File, error)            { return os.Open(name) }
func (system) Rename(from, to string) error              { return os.Rename(from, to) }
func (system) Remove(name string) error                  { return os.Remove(name) }
func (system) ReadDir(dir string) ([]fs.DirEntry, error) { return os.ReadDir(dir) }
func (system) Stat(name string) (fs.FileInfo, error)     { return os.Stat(name) }

func (system) Create(dir string) (File, error) {
	f, err := os.CreateTemp(dir, TempPrefix)
	if err != nil {
		return nil, err
	}
	return output{f}, nil
}

func (system) SyncDir(dir string) error {
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

// writebackSize is how much is worth being sent to the device at once, in bytes.
const writebackSize = 128 << 10

// output is a file that is written. Large pieces go to the device as they
// come, so that in the end Sync has little to wait for.
type output struct{ *os.File }

func (o output) Write(p []byte) (int, error) {
	n, err := o.File.Write(p)
	if n >= writebackSize {
		startWriteback(o.File)
	}
	return n, err
}
