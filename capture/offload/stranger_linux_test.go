package offload

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

const nobody = 65534

// asNobody runs f in a thread of another user, which ends with it.
func asNobody(f func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: nobody else gets the thread
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, nobody, nobody, nobody); errno != 0 {
			result <- errno
			return
		}
		result <- f()
	}()
	return <-result
}

// A process of another user is not let in, even where the mode of the socket would let it in; and nothing is handed to one.
func TestStranger(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("it takes root to be another user")
	}
	dir := shortDir(t)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "s")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dial := func() error {
		return asNobody(func() error {
			c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
			if err == nil {
				c.Close()
			}
			return err
		})
	}
	if err := dial(); !errors.Is(err, os.ErrPermission) {
		t.Errorf("the socket of mode 0600: %v", err)
	}
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	if err := dial(); err != nil {
		t.Fatal(err)
	}
	if c, err := l.Accept(t.Context()); !errors.Is(err, ErrStranger) {
		t.Errorf("%v, %v", c, err)
	}
	// It goes on.
	go func() { _, _ = net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"}) }()
	c, err := l.Accept(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c.Close()

	other := filepath.Join(dir, "other")
	if err := os.Mkdir(other, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(other, 0o777); err != nil {
		t.Fatal(err)
	}
	var theirs *net.UnixListener
	err = asNobody(func() (err error) {
		theirs, err = net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(other, "s"), Net: "unix"})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	if c, err := Dial(t.Context(), filepath.Join(other, "s"), 0); !errors.Is(err, ErrStranger) {
		t.Errorf("%v, %v", c, err)
	}
}
