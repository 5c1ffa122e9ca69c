//go:build unix

package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

const (
	lockName  = "lock"
	lockRetry = 50 * time.Millisecond
)

// lockHolder is what the lock file says of the process that holds it.
type lockHolder struct {
	PID    int    `json:"pid"`
	Holder string `json:"holder"`
}

// lock is the right to write to a store. The kernel gives it up when the
// process dies, so there is no such thing as a stale one.
type lock struct{ f *os.File }

// acquireLock takes the lock of the store in dir, waiting up to timeout for
// another holder; then it fails with an *InUseError.
func acquireLock(ctx context.Context, dir string, timeout time.Duration, holder string) (*lock, error) {
	name := filepath.Join(dir, lockName)
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("store: lock: %w", err)
	}
	start := time.Now()
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			break
		}
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			f.Close()
			return nil, fmt.Errorf("store: lock %s: %w", name, err)
		}
		if waited := time.Since(start); waited >= timeout {
			f.Close()
			inUse := &InUseError{Dir: dir, Waited: waited}
			if h, err := readHolder(name); err == nil {
				inUse.PID, inUse.Holder = h.PID, h.Holder
			}
			return nil, inUse
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, ctx.Err()
		case <-time.After(min(lockRetry, timeout)):
		}
	}
	b, err := json.Marshal(lockHolder{PID: os.Getpid(), Holder: holder})
	if err == nil {
		err = f.Truncate(0)
	}
	if err == nil {
		_, err = f.WriteAt(append(b, '\n'), 0)
	}
	if err != nil && !noRoom(err) { // it is for others to read, and a full disk is to be swept
		f.Close()
		return nil, fmt.Errorf("store: lock: %w", err)
	}
	return &lock{f}, nil
}

func (l *lock) release() error {
	if err := l.f.Close(); err != nil {
		return fmt.Errorf("store: unlock: %w", err)
	}
	return nil
}

// Lock takes the lock of a store that is open read-only, without waiting, for
// what is not the store's own to write. unlock must be called.
func (s *Store) Lock(ctx context.Context, holder string) (unlock func(), err error) {
	l, err := acquireLock(ctx, s.dir, 0, holder)
	if err != nil {
		return nil, err
	}
	return func() { l.release() }, nil
}

// LockDir takes a lock like a store's on any directory: one process at a time has it, until unlock or its death. It
// waits up to timeout and then fails with an *InUseError.
func LockDir(ctx context.Context, dir string, timeout time.Duration, holder string) (unlock func(), err error) {
	l, err := acquireLock(ctx, dir, timeout, holder)
	if err != nil {
		return nil, err
	}
	return func() { l.release() }, nil
}
