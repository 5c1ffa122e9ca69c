package criu

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// reapTime is how long the dead processes of a tree may take to vanish.
	reapTime = 5 * time.Second
	// dieTime is how long those may take to die that were killed, such as by a restore that failed.
	dieTime = 250 * time.Millisecond
)

// AwaitPIDs waits until no process has one of these PIDs, for a restored tree has the PIDs that it had. Dead
// processes vanish when their parents have seen it, which may take a moment; one that lives is an error.
func AwaitPIDs(ctx context.Context, pids []int) error {
	start := time.Now()
	for _, pid := range pids {
		for unix.Kill(pid, 0) != unix.ESRCH {
			name, state, parent := process(pid)
			switch waited := time.Since(start); {
			case state == 'Z' && waited > reapTime:
				waiter, _, _ := process(parent)
				return fmt.Errorf("criu: the process ID %d, which the restored tree needs, is still that of a dead process, for which its parent %d (%s) has not waited: end that one", pid, parent, waiter)
			case state != 'Z' && waited > dieTime:
				return fmt.Errorf("criu: the process ID %d is in use, by %s, and the restored tree would need it: end that process, or restore where the ID is free", pid, name)
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(5 * time.Millisecond):
			}
		}
	}
	return nil
}

// process returns the name, the state and the parent of a process; state 0 if there is none.
func process(pid int) (name string, state byte, parent int) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	// The name stands in parentheses, and may have parentheses.
	open, end := strings.IndexByte(string(b), '('), strings.LastIndexByte(string(b), ')')
	if err != nil || open < 0 || end < open || len(b) < end+3 {
		return "", 0, 0
	}
	if fields := strings.Fields(string(b[end+2:])); len(fields) > 1 {
		parent, _ = strconv.Atoi(fields[1])
	}
	return string(b[open+1 : end]), b[end+2], parent
}
