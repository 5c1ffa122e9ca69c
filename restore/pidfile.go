package restore

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// claimPIDFile makes sure that a PID can be written to a file, before there is a process that has it.
// A restore that fails calls giveUp, so that no file names a process that is not there.
func claimPIDFile(name string) (giveUp func(), err error) {
	if info, err := os.Stat(name); err == nil && !info.Mode().IsRegular() {
		return nil, fmt.Errorf("the PID file %s is there, but is no regular file", name)
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE, 0o644)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("the PID file %s: its directory is not there: make it first", name)
	}
	if err != nil {
		return nil, fmt.Errorf("the PID file: %w", err)
	}
	if err := f.Close(); err != nil {
		return nil, fmt.Errorf("the PID file: %w", err)
	}
	return func() {
		text, err := os.ReadFile(name)
		if err != nil {
			return
		}
		// It may be of a process that runs still, and is why the restore failed.
		if pid, err := strconv.Atoi(strings.TrimSpace(string(text))); err != nil || pid <= 0 || syscall.Kill(pid, 0) == syscall.ESRCH {
			os.Remove(name)
		}
	}, nil
}
