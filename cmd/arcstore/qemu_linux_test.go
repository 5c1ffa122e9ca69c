package main

import (
	"context"
	"encoding/json"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/arcboxlabs/arcstore"
	"github.com/arcboxlabs/arcstore/bench/guest"
)

// bootGuest starts a guest that counts, and listens for QMP at a socket.
func bootGuest(ctx context.Context, t *testing.T, socket string) *guest.Guest {
	t.Helper()
	image, err := guest.Prepare(ctx, "", guest.Counter)
	var g *guest.Guest
	if err == nil {
		g, err = guest.Start(ctx, image, &guest.Options{MemoryPath: filepath.Join(t.TempDir(), "memory"), MemoryBytes: guest.DefaultMemoryBytes, QMPSocket: socket})
	}
	if why, ok := guest.Excuse(err); ok {
		t.Skip(why)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.Close() })
	return g
}

func awaitCount(ctx context.Context, t *testing.T, g *guest.Guest) {
	t.Helper()
	n := 0
	if _, err := g.WaitFor(ctx, func(line string) bool {
		if strings.HasPrefix(line, "count ") {
			n++
		}
		return n == 2
	}); err != nil {
		t.Fatal(err)
	}
}

// A guest that the command has paused goes on, even if the command is killed that moment, and the next one works.
func TestKilledWhileGuestIsPaused(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	socket := filepath.Join(t.TempDir(), "qmp")
	g := bootGuest(ctx, t, socket)
	t.Setenv(storeVariable, filepath.Join(t.TempDir(), "store"))
	mustRun(t, "init")
	killed := false
	for try := 0; try < 10 && !killed; try++ {
		awaitCount(ctx, t, g)
		cmd := exec.Command("arcstore", "create", "vm", "counter", "--qemu", socket, "--parent", "none")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan struct{})
		go func() {
			cmd.Wait()
			close(ended)
		}()
		for waiting := true; waiting; {
			running, err := g.Running(ctx)
			if err != nil {
				t.Fatal(err)
			}
			select {
			case <-ended:
				waiting = false
			default:
				if !running {
					cmd.Process.Kill()
					<-ended
					killed, waiting = cmd.ProcessState.ExitCode() < 0, false
				}
			}
		}
	}
	if !killed {
		t.Fatal("the command was too fast to be killed while the guest was paused")
	}
	awaitCount(ctx, t, g)
	var s arcstore.Snapshot
	if err := json.Unmarshal([]byte(mustRun(t, "create", "vm", "counter", "--qemu", socket, "--pre-copy", "--json")), &s); err != nil || s.Cost.Pause <= 0 {
		t.Errorf("%+v, %v", s.Cost, err)
	}
	awaitCount(ctx, t, g)
	mustRun(t, "verify", "--data")
}
