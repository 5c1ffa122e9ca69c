package firecracker

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func ourselves(t *testing.T) *Process {
	t.Helper()
	p, err := identify(os.Getpid())
	if err != nil || !p.Known() || p.Alive() != nil {
		t.Fatalf("%+v, %v", p, err)
	}
	p.UID, p.GID = os.Geteuid(), os.Getegid()
	return p
}

func TestProcess(t *testing.T) {
	p := ourselves(t)
	if jailed, err := p.Jailed(); err != nil || jailed {
		t.Errorf("%v, %v", jailed, err)
	}
	if a, err := p.API(); err == nil {
		t.Errorf("%+v: a test has no such thread", a)
	}
	other := *p
	other.Start++ // the ID was given to another one
	if p.Same(&other) || other.Alive() == nil || p.Same(nil) || p.Same(&Process{}) || (&Process{}).Same(&Process{}) {
		t.Error("two processes are one")
	}
	release, err := p.Lock()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Lock(); !errors.Is(err, ErrTaken) {
		t.Error(err)
	}
	release()
	if release, err = p.Lock(); err != nil {
		t.Fatal(err)
	}
	release()
}

func TestPlace(t *testing.T) {
	p, dir := ourselves(t), t.TempDir()
	l, err := p.Place(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, size := range []int64{4 << 20, 64 << 10, 4096, 3 << 30} {
		if err := l.Probe(size); err != nil {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
	if l.File("x") != filepath.Join(dir, "x") {
		t.Error(l.File("x"))
	}
	if err := errors.Join(os.Symlink("/etc/passwd", l.File("link")), unix.Mkfifo(l.File("pipe"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if f, err := l.Open("link"); err == nil {
		t.Errorf("%s was opened, which is elsewhere", f.Name())
	}
	f, err := l.Open("pipe") // which must not wait for a writer
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	if _, err := l.Read("nothing", 10); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	if files, err := os.ReadDir(dir); err != nil || len(files) != 2 {
		t.Errorf("%v, %v", files, err)
	}
}

// A place for another user is made anew, is that user's, and goes.
func TestPlaceOfAnotherUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("it takes root to make files of another user's")
	}
	p := ourselves(t)
	p.UID, p.GID = 12345, 12346
	var dir string
	for range 2 {
		l, err := p.Place(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		dir = filepath.Dir(l.File("x"))
		var stat unix.Stat_t
		if err := unix.Stat(dir, &stat); err != nil || stat.Uid != 12345 || stat.Gid != 12346 || stat.Mode&0o777 != 0o700 {
			t.Errorf("%s: %v, %+v", dir, err, stat)
		}
		if err := os.WriteFile(l.File("x"), nil, 0o600); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(l.File("y")); err == nil {
			t.Error("something was left")
		}
		defer l.Close() // the second is in the place of the first
	}
	t.Cleanup(func() {
		if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: %v", dir, err)
		}
	})
}

func TestEachData(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(64 << 10); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(make([]byte, 4096), 8192); err != nil {
		t.Fatal(err)
	}
	n := 0
	if err := EachData(f, 64<<10, func(start, end int64) {
		if n++; start != 8192 || end != 12288 {
			t.Errorf("data from %d to %d", start, end)
		}
	}); err != nil || n != 1 {
		t.Errorf("%d, %v", n, err)
	}
	for _, size := range []int64{32 << 10, 128 << 10, 12000} {
		if err := EachData(f, size, func(int64, int64) {}); err == nil {
			t.Errorf("a file of another size than %d was read", size)
		}
	}
}
