package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/arcboxlabs/arcstore"
	"github.com/arcboxlabs/arcstore/bench/guest"
	"github.com/arcboxlabs/arcstore/bench/s3server"
	"github.com/arcboxlabs/arcstore/capture"
	"github.com/arcboxlabs/arcstore/cmd/schedule"
)

// served is a process that runs a host's schedules.
type served struct {
	cmd *exec.Cmd
	log bytes.Buffer
}

func (h *host) serve(config string) *served {
	h.t.Helper()
	s := &served{cmd: h.command("serve", "--config", config)}
	s.cmd.Stderr = &s.log
	if err := s.cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() {
		s.cmd.Process.Kill()
		s.cmd.Wait()
		if h.t.Failed() {
			h.t.Logf("serve said:\n%s", s.log.String())
		}
	})
	return s
}

// end ends it with a signal.
func (s *served) end(signal syscall.Signal) error {
	s.cmd.Process.Signal(signal)
	return s.cmd.Wait()
}

// runs returns how often a schedule was done so far; 0 where nobody answers yet.
func (h *host) runs(name string) (done int, history []schedule.Run) {
	if code, _ := h.run(&history, "schedule", "history", name); code != 0 {
		return 0, nil
	}
	for _, r := range history {
		if r.Result == schedule.Done {
			done++
		}
	}
	return done, history
}

func (h *host) awaitRuns(name string, n int) {
	h.t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(100 * time.Millisecond) {
		done, history := h.runs(name)
		if done >= n {
			return
		}
		if time.Now().After(deadline) {
			h.t.Fatalf("%s was done %d times: %+v", name, done, history)
		}
	}
}

// A guest is backed up again and again, with a retention and a way to a bucket, and the process that does it is killed in between. The
// guest goes on all the time, and what is in the bucket goes on in a fresh QEMU.
func TestScheduledBackups(t *testing.T) {
	half := 4 * time.Second
	if os.Getenv("ARCSTORE_TEST_LONG") != "" {
		half = time.Minute
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	s := startServer(t, s3server.Kinds[0])
	if err := makeBucket(s, "backups", false, false); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(t.TempDir(), "qmp")
	g := bootGuest(ctx, t, socket)
	h := newHost(t, s, s.Endpoint, "backups")
	config := fmt.Sprintf(`
schedules:
  - name: counter
    snapshot: {qemu: {socket: %s, pre_copy: true}}
    every: 2s
    keep: {last: 3}
    push: {remote: fleet, keep: {last: 3}}
  - {name: gc, gc: {}, every: 5s}
  - {name: bucket, remote_gc: {remote: fleet}, every: 7s}
  - {name: verify, verify: {data: true, percent: 50}, every: 6s}
`, socket)
	file := h.path("serve.yaml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	first := h.serve(file)
	h.awaitRuns("counter", 2)
	time.Sleep(half)
	if err := first.end(syscall.SIGKILL); err == nil {
		t.Fatal("it was not killed")
	}
	awaitCount(ctx, t, g) // whatever was going on
	before, _ := h.runs("counter")
	second := h.serve(file)
	h.awaitRuns("counter", before+2)
	time.Sleep(half)
	done, history := h.runs("counter")
	for _, r := range history {
		if r.Result == schedule.Failed {
			t.Errorf("a run failed: %+v", r)
		}
		if r.Result == schedule.Done && (r.Pause <= 0 || r.Pause > r.Duration) {
			t.Errorf("the guest was paused for %s of %s", r.Pause, r.Duration)
		}
	}
	h.must(nil, "schedule", "check", "--within", "1m")
	if err := second.end(syscall.SIGTERM); err != nil {
		t.Errorf("serve ended with %v", err)
	}
	count := g.LastCount()
	awaitCount(ctx, t, g)
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	var here, there []arcstore.Snapshot
	h.must(&here, "list")
	h.must(&there, "remote", "ls", "fleet")
	if len(here) == 0 || len(here) > 3 || len(there) == 0 || len(there) > 3 || here[len(here)-1].ID != there[len(there)-1].ID {
		t.Fatalf("%d snapshots are here and %d there", len(here), len(there))
	}
	t.Logf("%d snapshots were taken, the guest counted to %d", done, count)
	h.must(nil, "verify", "--data")
	h.must(nil, "remote", "verify", "fleet", "--data")

	out := h.path("out")
	h.must(nil, "restore", "counter@latest", "--from", "fleet", "--output", out)
	image, err := guest.Prepare(ctx, "", guest.Counter)
	if err != nil {
		t.Fatal(err)
	}
	restored, err := guest.Start(ctx, image, &guest.Options{MemoryPath: filepath.Join(out, "memory"), MemoryBytes: guest.DefaultMemoryBytes,
		Incoming: filepath.Join(out, capture.QEMUState)})
	if err != nil {
		t.Fatal(err)
	}
	defer restored.Close()
	if err := restored.Resume(ctx); err != nil {
		t.Fatal(err)
	}
	awaitCount(ctx, t, restored)
	if n := restored.LastCount(); n <= 2 {
		t.Errorf("the restored guest began anew: it counts %d", n)
	}
}
