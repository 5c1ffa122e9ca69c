package capture

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// File is a chunk source that reads a file and knows its holes. It is safe for concurrent ReadAt.
type File struct {
	f    *os.File
	size int64
}

// OpenFile opens a regular file, or a block device, as a source. Its size is
// taken now: a file that is shorter when it is read is an error then.
func OpenFile(name string) (*File, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("capture: %w", err)
	}
	return newFile(f, name)
}

// newFile makes a source of an open file, which it closes if it fails.
// NewFile returns an open file as a source, which closes it.
func NewFile(f *os.File) (*File, error) { return newFile(f, f.Name()) }

func newFile(f *os.File, name string) (*File, error) {
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("capture: %w", err)
	}
	size := info.Size()
	switch {
	case info.Mode().IsRegular():
	case info.Mode()&fs.ModeDevice != 0 && info.Mode()&fs.ModeCharDevice == 0:
		if size, err = f.Seek(0, 2); err != nil {
			f.Close()
			return nil, fmt.Errorf("capture: size of %s: %w", name, err)
		}
	default:
		f.Close()
		return nil, fmt.Errorf("capture: %s is neither a regular file nor a block device", name)
	}
	return &File{f: f, size: size}, nil
}

// ReadAt implements io.ReaderAt.
func (f *File) ReadAt(p []byte, off int64) (int, error) { return f.f.ReadAt(p, off) }

// Size returns the size that the file had when it was opened, in bytes.
func (f *File) Size() int64 { return f.size }

// Close closes the file.
func (f *File) Close() error { return f.f.Close() }

// NextData implements chunker.HoleFinder with SEEK_DATA and SEEK_HOLE. On
// file systems that cannot tell, everything is data.
func (f *File) NextData(off int64) (start, end int64, err error) {
	start, err = unix.Seek(int(f.f.Fd()), off, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) { // nothing but a hole up to the end
		// A file that shrank also answers so; then its pages are not holes.
		info, err := f.f.Stat()
		if err != nil {
			return 0, 0, fmt.Errorf("capture: %w", err)
		}
		if info.Mode().IsRegular() && info.Size() < f.size {
			return off, f.size, nil // the read will tell
		}
		return f.size, f.size, nil
	}
	if err != nil {
		return off, f.size, nil
	}
	end, err = unix.Seek(int(f.f.Fd()), start, unix.SEEK_HOLE)
	if err != nil {
		return start, f.size, nil
	}
	return min(start, f.size), min(end, f.size), nil
}
