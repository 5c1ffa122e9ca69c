package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"

	"github.com/spf13/cobra"

	"github.com/arcboxlabs/arcstore/capture"
)

// guardTimeout is how long a guard tries to resume a guest. Firecracker answers nobody while it writes a snapshot.
const guardTimeout = 10 * time.Minute

// newResumeGuestCommand is the guard: a process that outlives the one that paused a guest, and then resumes the guest.
func newResumeGuestCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:               "resume-guest VMM SOCKET",
		Short:             "Resume a guest when stdin ends",
		Example:           "  arcstore resume-guest qemu /run/vm/web-1.qmp </dev/null",
		Hidden:            true,
		Args:              takes(2, 2, "a VMM and a SOCKET"),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			if b, _ := io.ReadAll(a.stdin); len(b) > 0 {
				return nil // all is well
			}
			ctx, cancel := context.WithTimeout(context.WithoutCancel(cmd.Context()), guardTimeout)
			defer cancel()
			for {
				err := capture.Resume(ctx, args[0], args[1])
				if err == nil || ctx.Err() != nil || errors.Is(err, capture.ErrInvalid) {
					return err
				}
				time.Sleep(100 * time.Millisecond) // QEMU, say, has not noticed yet that the other one is gone
			}
		},
	}
	return exits(cmd, exitFailed)
}

// newKillGuestCommand is the guard of a guest whose memory another process loads: should that die, the guest would wait for ever.
func newKillGuestCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:               "kill-guest PID",
		Short:             "Kill the process of an inherited pidfd when stdin ends",
		Example:           "  arcstore kill-guest 4711 3</proc/4711/pidfd </dev/null",
		Hidden:            true,
		Args:              takes(1, 1, "a PID"),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(*cobra.Command, []string) error {
			if b, _ := io.ReadAll(a.stdin); len(b) > 0 {
				return nil // all is well
			}
			return killGuest()
		},
	}
	return exits(cmd, exitFailed)
}

// guardGuest starts a process that resumes a guest if this one dies. done ends it.
func guardGuest(vmm, socket string) (done func(), err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("guard of the guest: %w", err)
	}
	return startGuard(exec.Command(self, "resume-guest", vmm, socket))
}

// startGuard starts a guard, which acts when this process dies, unless done was called.
func startGuard(guard *exec.Cmd) (done func(), err error) {
	apart(guard)
	in, err := guard.StdinPipe()
	if err == nil {
		err = guard.Start()
	}
	if err != nil {
		return nil, fmt.Errorf("guard of the guest: %w", err)
	}
	return func() {
		io.WriteString(in, "done")
		in.Close()
		guard.Wait()
	}, nil
}
