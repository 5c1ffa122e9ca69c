package firecracker

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/arcboxlabs/arcstore/chunker"
)

// Place is a directory that Firecracker can write to, and that its guest has no say in. What is in it is only reached through it, so that
// a Firecracker which its guest has taken over cannot pass off a link to a file of the host's.
type Place struct {
	root   *os.Root // the directory
	theirs string   // its path, as Firecracker sees it
	parent *os.Root // which it is removed from; nil where that is another's business
	name   string
}

// Place returns a place for files that the process writes: dir, or, for a process that runs as another user or, in a jail, sees no dir, a
// directory that is made for it. That is the same each time, and empty. It must be closed.
func (p *Process) Place(dir string) (*Place, error) {
	jailed, err := false, error(nil)
	if p.Known() {
		if jailed, err = p.Jailed(); err != nil {
			return nil, fmt.Errorf("its root directory: %w", err)
		}
	}
	if !jailed && (!p.Known() || p.UID == os.Geteuid() || p.UID == 0) {
		root, err := os.OpenRoot(dir)
		if err != nil {
			return nil, err
		}
		return &Place{root: root, theirs: dir}, nil
	}
	within := "/"
	if !jailed {
		within = "/var/tmp"
	}
	l := &Place{name: fmt.Sprintf(".arcstore-%d-%d", p.PID, p.Start)}
	l.theirs = filepath.Join(within, l.name)
	// Through the process: what is mounted may be something else for it than for us.
	if l.parent, err = os.OpenRoot(filepath.Join(procPath(p.PID, "root"), within)); err != nil {
		return nil, err
	}
	if err = l.parent.RemoveAll(l.name); err == nil {
		err = l.parent.Mkdir(l.name, 0o700)
	}
	if err == nil {
		l.root, err = l.parent.OpenRoot(l.name)
	}
	if err == nil {
		err = l.root.Chown(".", p.UID, p.GID)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("a directory that Firecracker can write to: %w", err), l.Close())
	}
	return l, nil
}

// Close removes a directory that was made, with what is in it.
func (l *Place) Close() (err error) {
	if l.root != nil {
		l.root.Close()
	}
	if l.parent != nil {
		err = l.parent.RemoveAll(l.name)
		l.parent.Close()
	}
	return err
}

// File returns Firecracker's path of a file.
func (l *Place) File(name string) string { return filepath.Join(l.theirs, name) }

// Remove removes a file.
func (l *Place) Remove(name string) error { return l.root.Remove(name) }

// Open opens a file for reading.
func (l *Place) Open(name string) (*os.File, error) {
	f, err := l.root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0) // a pipe in its place must not make us wait
	if errors.Is(err, os.ErrNotExist) {
		err = fmt.Errorf("it said that it wrote %s, and there is none: %w", l.File(name), os.ErrNotExist)
	}
	return f, err
}

// Read returns what is in a file, which is limit bytes at most, or one more.
func (l *Place) Read(name string, limit int64) ([]byte, error) {
	f, err := l.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, limit+1))
}

// ErrHoles is wrapped by the error for a file system whose holes do not tell which pages were written.
var ErrHoles = errors.New("the file system does not tell which pages of a file were written")

// Probe reports whether a file of size bytes in the place has its holes just where nothing was written, to the page: not all file
// systems know of holes, some have larger blocks, and some make holes of zeros that were written.
func (l *Place) Probe(size int64) (err error) {
	const name = "probe"
	f, err := l.root.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		f.Close()
		err = errors.Join(err, l.root.Remove(name))
	}()
	if err := f.Truncate(size); err != nil {
		return err
	}
	page := make([]byte, chunker.PageSize)
	pages := size / chunker.PageSize
	want := map[int64]bool{}
	for _, at := range []int64{1, 3, 4, 65, pages/2 | 1, pages - 2} {
		if at < 0 || at >= pages {
			continue
		}
		want[at] = true
		page[0] = byte(at & 2) // some of them are zeros
		if _, err := f.WriteAt(page, at*chunker.PageSize); err != nil {
			return err
		}
	}
	if err := f.Sync(); err != nil { // as Firecracker does
		return err
	}
	got, wrong := 0, false
	err = EachData(f, size, func(start, end int64) {
		for at := start / chunker.PageSize; at < end/chunker.PageSize; at++ {
			got++
			wrong = wrong || !want[at]
		}
	})
	if err == nil && (wrong || got != len(want)) {
		err = ErrHoles
	}
	return err
}

// EachData calls do for each part of a file of size bytes that was written. What cannot be told is an error.
func EachData(f *os.File, size int64, do func(start, end int64)) error {
	for at := int64(0); at < size; {
		start, err := unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			break
		}
		var end int64
		if err == nil {
			end, err = unix.Seek(int(f.Fd()), start, unix.SEEK_HOLE)
		}
		if err != nil {
			return fmt.Errorf("%w: %w", ErrHoles, err)
		}
		if start < at || end <= start || end > size || start%chunker.PageSize != 0 || end%chunker.PageSize != 0 {
			return fmt.Errorf("%w: it says that there is data from byte %d to byte %d", ErrHoles, start, end)
		}
		do(start, end)
		at = end
	}
	if info, err := f.Stat(); err != nil || info.Size() != size {
		return errors.Join(errors.New("a file changed its size while it was read"), err)
	}
	return nil
}

// ErrTaken is the error for a guest of which another snapshot is being taken.
var ErrTaken = errors.New("another snapshot of it is being taken")

// Lock keeps others of this program from asking the process for a snapshot, until release. It ends with our process.
func (p *Process) Lock() (release func(), err error) {
	if !p.Known() {
		return func() {}, nil
	}
	l, err := net.Listen("unix", fmt.Sprintf("@arcstore-firecracker-%d-%d", p.PID, p.Start)) // a name that is in no file system
	if errors.Is(err, unix.EADDRINUSE) {
		return nil, ErrTaken
	}
	if err != nil {
		return nil, err
	}
	return func() { l.Close() }, nil
}
