package offload

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"syscall"
	"time"
)

// ErrStranger: the process at the other end belongs to somebody else.
var ErrStranger = errors.New("the process at the other end of the socket belongs to another user")

// maxPath is how long the path of a Unix socket may be everywhere, in bytes.
const maxPath = 100

// retryEvery is how often Dial tries again.
const retryEvery = 50 * time.Millisecond

// Listener is a socket that guests are handed over at. Close ends an Accept, and removes the socket.
type Listener struct {
	l *net.UnixListener
}

// Listen makes a socket at path, with the mode 0600. One that is there and at which nobody listens any more is replaced; anything else there is an
// error that wraps fs.ErrExist.
func Listen(path string) (*Listener, error) {
	if err := checkPath(path); err != nil {
		return nil, err
	}
	if err := removeStale(path); err != nil {
		return nil, fmt.Errorf("offload: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("offload: %w", err)
	}
	// Who gets in before is looked at all the same.
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("offload: %w", err), l.Close())
	}
	return &Listener{l}, nil
}

func checkPath(path string) error {
	if len(path) > maxPath {
		return fmt.Errorf("offload: the path %s has more than the %d bytes that a socket's may have: choose a shorter one", path, maxPath)
	}
	return nil
}

// removeStale removes a socket at which nobody listens.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode()&fs.ModeSocket == 0:
		return fmt.Errorf("%s: %w, and is no socket", path, fs.ErrExist)
	}
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err == nil {
		c.Close()
		return fmt.Errorf("%s: %w, and another process listens there", path, fs.ErrExist)
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return err
	}
	return os.Remove(path)
}

// Accept waits for a connection. One of another user's process, but root's, is closed; the error wraps ErrStranger then, and the listener goes on.
func (l *Listener) Accept(ctx context.Context) (*Conn, error) {
	stop := context.AfterFunc(ctx, func() { _ = l.l.SetDeadline(time.Unix(1, 0)) })
	c, err := l.l.AcceptUnix()
	stop()
	if ctx.Err() != nil {
		if err == nil {
			c.Close()
		}
		return nil, context.Cause(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("offload: %w", err)
	}
	if err := CheckPeer(c); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return NewConn(c), nil
}

// Close implements io.Closer.
func (l *Listener) Close() error { return l.l.Close() }

// Dial connects to the socket at path, and tries again for as long as wait while nobody listens there. The other end must be of this process's
// user, or of root; otherwise the error wraps ErrStranger, and nothing was sent.
func Dial(ctx context.Context, path string, wait time.Duration) (*Conn, error) {
	if err := checkPath(path); err != nil {
		return nil, err
	}
	until := time.Now().Add(wait)
	for {
		c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
		if err == nil {
			if err := CheckPeer(c); err != nil {
				return nil, errors.Join(err, c.Close())
			}
			return NewConn(c), nil
		}
		if absent := errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED); !absent || time.Now().After(until) {
			return nil, fmt.Errorf("offload: %w", err)
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(retryEvery):
		}
	}
}

// CheckPeer returns an error that wraps ErrStranger unless the process at the other end is of this one's user, or of root.
func CheckPeer(c *net.UnixConn) error {
	uid, err := peer(c)
	if err != nil {
		return fmt.Errorf("offload: who is at the other end: %w", err)
	}
	return admit(uid, os.Geteuid())
}

// admit decides whether a process of the user self deals with one of the user uid.
func admit(uid, self int) error {
	if uid != 0 && uid != self {
		return fmt.Errorf("offload: %w, with the ID %d: run both as one user, or the other one as root", ErrStranger, uid)
	}
	return nil
}
