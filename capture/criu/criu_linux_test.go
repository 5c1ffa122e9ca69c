package criu_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/arcboxlabs/arcstore/capture/criu"
)

// installed returns the CRIU to test with.
func installed(t *testing.T) string {
	t.Helper()
	path := os.Getenv("ARCSTORE_CRIU")
	if path == "" {
		path, _ = exec.LookPath("criu")
	}
	if path == "" || os.Geteuid() != 0 {
		need(t, "criu", "CRIU is missing, or this is not root: build CRIU 4.1 or later, set ARCSTORE_CRIU to it, and run the test as root")
	}
	return path
}

// need skips, or fails where the part is required.
func need(t *testing.T, part, text string) {
	t.Helper()
	if slices.Contains(strings.Split(os.Getenv("ARCSTORE_TEST_REQUIRE"), ","), part) {
		t.Fatal(text)
	}
	t.Skip(text)
}

// counter starts a process of its own session that counts in a file, and returns how far it is.
func counter(t *testing.T) (*exec.Cmd, func() int) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "count")
	cmd := exec.Command("/bin/sh", "-c", `i=0; while :; do i=$((i+1)); echo $i >"$0.new"; mv "$0.new" "$0"; sleep 0.01; done`, file)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		cmd.Wait()
	})
	count := func() int {
		b, err := os.ReadFile(file)
		n, _ := strconv.Atoi(strings.TrimSpace(string(b)))
		if err != nil {
			return 0
		}
		return n
	}
	goesOn(t, count)
	return cmd, count
}

func goesOn(t *testing.T, count func() int) {
	t.Helper()
	start := count()
	for range 500 {
		if count() > start+2 {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("the process does not go on from %d", start)
}

func TestDumpHolds(t *testing.T) {
	path := installed(t)
	cmd, count := counter(t)
	broken := errors.New("the disk is full")
	err := criu.Dump(t.Context(), path, t.TempDir(), t.TempDir(), criu.DumpOptions{PID: cmd.Process.Pid}, func() error {
		at := count()
		time.Sleep(200 * time.Millisecond)
		if count() != at {
			t.Errorf("the process runs while its images are made safe")
		}
		return broken
	})
	if !errors.Is(err, broken) {
		t.Fatalf("Dump = %v, want %v", err, broken)
	}
	goesOn(t, count)

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err = criu.Dump(ctx, path, t.TempDir(), t.TempDir(), criu.DumpOptions{PID: cmd.Process.Pid}, func() error { return nil })
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("Dump with a context that has ended = %v", err)
	}
	goesOn(t, count)

	if err := criu.Dump(t.Context(), path, t.TempDir(), t.TempDir(), criu.DumpOptions{PID: cmd.Process.Pid, LeaveRunning: true}, func() error { return nil }); err != nil {
		t.Fatal(err)
	}
	goesOn(t, count)
}

func TestDumpRestore(t *testing.T) {
	path := installed(t)
	cmd, count := counter(t)
	images := t.TempDir()
	var pids []int
	err := criu.Dump(t.Context(), path, images, t.TempDir(), criu.DumpOptions{PID: cmd.Process.Pid}, func() error {
		pids = children(t, cmd.Process.Pid)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	cmd.Wait() // CRIU has killed it
	at := count()
	if err := criu.AwaitPIDs(t.Context(), append(pids, cmd.Process.Pid)); err != nil {
		t.Fatal(err)
	}
	pid, err := criu.Restore(t.Context(), path, images, t.TempDir(), criu.RestoreOptions{Cgroup: "arcstore-test"})
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Kill(-pid, syscall.SIGKILL)
	if pid != cmd.Process.Pid {
		t.Errorf("PID %d after the restore, %d before", pid, cmd.Process.Pid)
	}
	if goesOn(t, count); count() < at {
		t.Errorf("it counts from %d, but was at %d", count(), at)
	}
	if b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cgroup"); err != nil || !strings.Contains(string(b), "/arcstore-test\n") {
		t.Errorf("cgroup of the restored process: %s %v", b, err)
	}
}

func TestDumpFails(t *testing.T) {
	path := installed(t)
	err := criu.Dump(t.Context(), path, t.TempDir(), t.TempDir(), criu.DumpOptions{PID: 1 << 22}, func() error { return nil })
	t.Log(err)
	var failed *criu.FailedError
	if !errors.As(err, &failed) || failed.Text == "" {
		t.Fatalf("Dump of no process = %v, want CRIU's words", err)
	}
}

// A CRIU that dies is told from one that says what is wrong.
func TestDumpDies(t *testing.T) {
	fake := filepath.Join(t.TempDir(), "criu")
	if err := os.WriteFile(fake, []byte("#!/bin/sh\ndd bs=65536 count=1 <&3 >/dev/null 2>&1\nexit 3\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	err := criu.Dump(t.Context(), fake, t.TempDir(), t.TempDir(), criu.DumpOptions{PID: 1 << 22}, func() error { return nil })
	if err == nil || !strings.Contains(err.Error(), "CRIU ended without an answer") || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("Dump by a CRIU that dies = %v", err)
	}
}

// children returns the PIDs of a process's children.
func children(t *testing.T, pid int) []int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		t.Fatal(err)
	}
	var pids []int
	for _, field := range strings.Fields(string(b)) {
		child, err := strconv.Atoi(field)
		if err != nil {
			t.Fatal(err)
		}
		pids = append(pids, child)
	}
	return pids
}
