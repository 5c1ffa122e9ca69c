package disk

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strings"
	"sync"
)

// MakeDir makes sure that a directory exists, and those above it. One that is
// new is made durable at once: who finds it later takes it for granted.
func MakeDir(d Disk, dir string) error {
	defer begin(dir)()
	err := d.Mkdir(dir)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	parent := filepath.Dir(dir)
	if errors.Is(err, fs.ErrNotExist) && parent != dir {
		if err = MakeDir(d, parent); err == nil {
			err = d.Mkdir(dir)
		}
	}
	if err != nil {
		return err
	}
	if err := d.SyncDir(parent); err != nil {
		d.Remove(dir) // or the next one would find it, and take it for granted
		return err
	}
	return nil
}

// making has the directories that MakeDir is at work on, each until it is
// durable: who found it before would rely on it too early.
var making = struct {
	sync.Mutex
	dirs map[string]chan struct{}
}{dirs: make(map[string]chan struct{})}

// begin waits for whoever is making dir, and keeps others waiting until end is called.
func begin(dir string) (end func()) {
	done := make(chan struct{})
	for {
		making.Lock()
		other := making.dirs[dir]
		if other == nil {
			making.dirs[dir] = done
		}
		making.Unlock()
		if other == nil {
			break
		}
		<-other
	}
	return func() {
		making.Lock()
		delete(making.dirs, dir)
		making.Unlock()
		close(done)
	}
}

// CreateIn makes a new file in dir, and dir too.
func CreateIn(d Disk, dir string) (File, error) {
	if err := MakeDir(d, dir); err != nil {
		return nil, err
	}
	return d.Create(dir)
}

// MoveInto closes a complete file and gives it its name; if it cannot, the
// file is gone. Where durable, the file and its name outlive a loss of power.
func MoveInto(d Disk, f File, name string, durable bool) error {
	err := error(nil)
	if durable {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	dir := filepath.Dir(name)
	if err == nil {
		err = MakeDir(d, dir)
	}
	if err == nil {
		err = d.Rename(f.Name(), name)
	}
	if err != nil {
		d.Remove(f.Name())
		return err
	}
	if durable {
		return d.SyncDir(dir)
	}
	return nil
}

// WriteFile puts b in place of the file name: afterwards, whatever happens,
// either the old or the new content is there.
func WriteFile(d Disk, name string, b []byte, durable bool) error {
	f, err := CreateIn(d, filepath.Dir(name))
	if err != nil {
		return err
	}
	if _, err := f.Write(b); err != nil {
		f.Close()
		d.Remove(f.Name())
		return err
	}
	return MoveInto(d, f, name, durable)
}

// ErrTooLarge is wrapped by the error for a file that has more bytes than it may.
var ErrTooLarge = errors.New("file is too large")

// ReadFile reads a file of at most limit bytes.
func ReadFile(d Disk, name string, limit int64) ([]byte, error) {
	f, err := d.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Size() > limit {
		return nil, fmt.Errorf("%s: %w: it has more than %d bytes", filepath.Base(name), ErrTooLarge, limit)
	}
	b := make([]byte, info.Size())
	if _, err := f.ReadAt(b, 0); err != nil && (err != io.EOF || len(b) > 0) {
		return nil, err
	}
	return b, nil
}

// RemoveTemporary removes the files that writers left behind in dir, and says how many there were.
func RemoveTemporary(d Disk, dir string) (int, error) {
	names, err := temporary(d, dir)
	for n, name := range names {
		if err := d.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) { // its writer was not dead
			return n, err
		}
	}
	return len(names), err
}

// Temporary says how many files RemoveTemporary would remove, and how many bytes they have.
func Temporary(d Disk, dir string) (n int, bytes int64, err error) {
	names, err := temporary(d, dir)
	return len(names), Size(d, names), err
}

// Size sums the bytes of files; those that are gone have none.
func Size(d Disk, names []string) (bytes int64) {
	for _, name := range names {
		if info, err := d.Stat(name); err == nil {
			bytes += info.Size()
		}
	}
	return bytes
}

func temporary(d Disk, dir string) ([]string, error) {
	entries, err := d.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var names []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), TempPrefix) {
			names = append(names, filepath.Join(dir, e.Name()))
		}
	}
	return names, err
}
