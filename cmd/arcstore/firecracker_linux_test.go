package main

import (
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/arcboxlabs/arcstore"
	"github.com/arcboxlabs/arcstore/bench/firecracker"
)

func startFirecracker(t *testing.T, dir string) *firecracker.Process {
	t.Helper()
	p, err := firecracker.Start(t.Context(), firecracker.Options{Socket: filepath.Join(dir, "api"), Truth: filepath.Join(dir, "truth"), MemoryMiB: 4})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

func firecrackerStatus(t *testing.T, p *firecracker.Process) firecracker.Status {
	t.Helper()
	s, err := p.Status()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// awaitFirecracker waits until its guest runs.
func awaitFirecracker(t *testing.T, p *firecracker.Process) {
	t.Helper()
	for begin := firecrackerStatus(t, p).Pages; firecrackerStatus(t, p).Pages == begin; {
		if t.Context().Err() != nil {
			t.Fatal("the guest does not run")
		}
		time.Sleep(time.Millisecond)
	}
}

// A guest that the command has paused goes on even if the command is killed while Firecracker writes; what Firecracker then forgot is all written the next time.
func TestKilledWhileFirecrackerWrites(t *testing.T) {
	dir := t.TempDir()
	p := startFirecracker(t, dir)
	socket := filepath.Join(dir, "api")
	t.Setenv(storeVariable, filepath.Join(dir, "store"))
	mustRun(t, "init")
	create := []string{"create", "vm", "micro", "--firecracker", socket, "--diff", "--json"}
	mustRun(t, create...)
	awaitFirecracker(t, p)
	mustRun(t, create...)
	if s := firecrackerStatus(t, p); s.Last != "Diff" {
		t.Errorf("it wrote %s", s.Last)
	}
	awaitFirecracker(t, p)

	if err := p.Tell(firecracker.Hang); err != nil {
		t.Fatal(err)
	}
	before := firecrackerStatus(t, p)
	cmd := exec.Command("arcstore", create...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for firecrackerStatus(t, p).Snapshots == before.Snapshots {
		time.Sleep(time.Millisecond)
	}
	if s := firecrackerStatus(t, p); s.State != firecracker.Paused || s.Last != "Diff" {
		t.Errorf("%+v", s)
	}
	cmd.Process.Kill()
	cmd.Wait()
	if err := p.Tell(firecracker.Go); err != nil {
		t.Fatal(err)
	}
	awaitFirecracker(t, p)

	var s arcstore.Snapshot
	if err := json.Unmarshal([]byte(mustRun(t, create...)), &s); err != nil || s.Cost.Pause <= 0 {
		t.Errorf("%+v, %v", s.Cost, err)
	}
	if s := firecrackerStatus(t, p); s.Last != "Full" || s.State != firecracker.Running {
		t.Errorf("%+v", s)
	}
	mustRun(t, "restore", s.ID, "--output", filepath.Join(dir, "out"))
	if err := exec.Command("cmp", filepath.Join(dir, "out", "memory"), filepath.Join(dir, "truth")).Run(); err != nil {
		t.Error(err)
	}
	mustRun(t, "verify", "--data")
}

// A command that writes the memory ends with the create, and what it started, too.
func TestExecInterrupted(t *testing.T) {
	dir := t.TempDir()
	t.Setenv(storeVariable, filepath.Join(dir, "store"))
	mustRun(t, "init")
	fifo := filepath.Join(dir, "fifo")
	if err := exec.Command("mkfifo", fifo).Run(); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("arcstore", "create", "vm", "web-1", "--exec", "sleep 1000 >"+fifo+" & wait")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	reader, err := os.Open(fifo) // waits for a writer
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	cmd.Process.Signal(os.Interrupt)
	cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != exitInterrupted {
		t.Errorf("exit code %d", code)
	}
	if _, err := io.ReadAll(reader); err != nil { // ends with the last writer
		t.Error(err)
	}
	if list := mustRun(t, "list", "--json"); strings.TrimSpace(list) != "[]" {
		t.Errorf("%s", list)
	}
}
