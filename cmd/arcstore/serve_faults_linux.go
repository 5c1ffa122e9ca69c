package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"sync"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/arcboxlabs/arcstore"
)

func runServeFaults(cmd *cobra.Command, a *app, opt serveFaultsOptions, id string) error {
	now := make(chan struct{})
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGUSR1)
	defer signal.Stop(asked)
	go func() {
		<-asked
		close(now)
	}()
	return a.readLong(cmd.Context(), func(m *arcstore.Manager) error {
		m.SetCache(int64(opt.cache))
		lazy, err := m.OpenLazy(cmd.Context(), id)
		if err != nil {
			return err
		}
		defer lazy.Close()
		listener, err := listenPrivately(opt.socket)
		if err != nil {
			return err
		}
		var mu sync.Mutex
		say := func(format string, args ...any) {
			mu.Lock()
			defer mu.Unlock()
			a.note(format, args...)
		}
		o := &arcstore.FaultOptions{NoWorkingSet: opt.noWorkingSet, Record: opt.record, FillRate: int64(opt.fill), Clones: opt.clones,
			Complete: opt.complete, CompleteNow: now, Guard: guardMemory,
			Damaged: func(offset int64, err error) {
				mu.Lock()
				defer mu.Unlock()
				a.warn(fmt.Sprintf("the guest's memory at %#x is damaged, who touches it gets SIGBUS: %s", offset, plain(err)))
			},
			Warn:     func(err error) { say("%s", plain(err)) },
			Attached: func(pid int) { say("process %d runs", pid) },
			Ended: func(e arcstore.GuestEnded) {
				if e.Err == nil {
					say("process %d needs nothing more: %s faults, %s loaded, %s of it before it was asked for, in %s", e.PID, count(int(e.Stats.Faults)),
						size(e.Stats.Loaded*4096), size(e.Stats.Prefetched*4096), took(e.Duration))
				}
			},
		}
		if opt.user >= 0 {
			o.User = &opt.user
			if err := os.Chown(opt.socket, opt.user, -1); err != nil {
				listener.Close()
				return fmt.Errorf("give the socket to user %d: %w", opt.user, err)
			}
		}
		say("waiting at %s for a VMM that loads snapshot %s", opt.socket, lazy.Snapshot().ID)
		return explainFaults(lazy.ServeFaults(cmd.Context(), listener, o, nil))
	})
}

// listenPrivately listens on a socket that is for its owner alone.
func listenPrivately(path string) (*net.UnixListener, error) {
	old := unix.Umask(0o177)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	unix.Umask(old)
	if err != nil && isThere(path) {
		return nil, fmt.Errorf("there is something at %s already: remove it, if nobody uses it, or name another socket", path)
	}
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	return l, nil
}

func isThere(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// guardMemory starts a process that kills a VMM if this one dies.
func guardMemory(pid int, process *os.File) (release func(), err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("guard of the guest: %w", err)
	}
	guard := exec.Command(self, "kill-guest", strconv.Itoa(pid))
	guard.ExtraFiles = []*os.File{process}
	return startGuard(guard)
}

// killGuest kills the process of a pidfd that was inherited.
func killGuest() error {
	err := unix.PidfdSendSignal(guardedProcess, unix.SIGKILL, nil, 0)
	if err == unix.ESRCH {
		return nil
	}
	return err
}

// guardedProcess is the first descriptor that a command inherits besides the usual ones.
const guardedProcess = 3
