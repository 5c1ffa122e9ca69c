package control

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
)

// SocketName is the socket's name in the store's directory.
const SocketName = "control.sock"

// ErrNobody: no process answers for the store.
var ErrNobody = errors.New("no process answers for the store")

// ErrStranger: the process at the other end belongs to somebody else.
var ErrStranger = errors.New("the other end of the socket belongs to another user")

// maxSocketPath is how long the path of a Unix socket may be everywhere, in bytes.
const maxSocketPath = 100

// Listen makes the control socket of the store in dir, which the caller must hold the lock of: a socket that is there was left behind.
// Only processes of the same user, and of root, are let in. Closing the listener removes the socket.
func Listen(dir string) (net.Listener, error) {
	name := filepath.Join(dir, SocketName)
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("store: control socket: %w", err)
	}
	at, done, err := reach(dir)
	if err != nil {
		return nil, fmt.Errorf("store: control socket: %w", err)
	}
	defer done()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: at, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("store: control socket: %w", err)
	}
	l.SetUnlinkOnClose(false) // by the name that it was made under
	// Nobody else can reach it before: the store's directory is its owner's alone.
	if err := os.Chmod(name, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("store: control socket: %w", err), l.Close())
	}
	return &listener{UnixListener: l, name: name}, nil
}

// reach returns a path of the control socket in dir that is short enough, which holds until done.
func reach(dir string) (path string, done func(), err error) {
	name := filepath.Join(dir, SocketName)
	if len(name) <= maxSocketPath {
		return name, func() {}, nil
	}
	return shorten(dir)
}

// listener lets in who may.
type listener struct {
	*net.UnixListener
	name string
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	for {
		c, err := l.AcceptUnix()
		if err != nil {
			return nil, err
		}
		if checkPeer(c) == nil {
			return c, nil
		}
		c.Close()
	}
}

// Close implements net.Listener.
func (l *listener) Close() error {
	err := l.UnixListener.Close()
	if rerr := os.Remove(l.name); rerr != nil && !errors.Is(rerr, fs.ErrNotExist) {
		err = errors.Join(err, rerr)
	}
	return err
}

// connect connects to the process that answers for the store in dir: ErrNobody if there is none.
func connect(ctx context.Context, dir string) (net.Conn, error) {
	at, done, err := reach(dir)
	if err != nil {
		return nil, fmt.Errorf("store: control socket: %w", err)
	}
	defer done()
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", at)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, fmt.Errorf("store: %w: %w", ErrNobody, err)
	}
	if err := checkPeer(c.(*net.UnixConn)); err != nil {
		return nil, errors.Join(fmt.Errorf("store: control socket: %w", err), c.Close())
	}
	return c, nil
}

// checkPeer lets processes of this one's user pass, and of root.
func checkPeer(c *net.UnixConn) error {
	uid, err := peer(c)
	if err != nil {
		return err
	}
	if uid != 0 && uid != os.Geteuid() {
		return ErrStranger
	}
	return nil
}
