package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/arcboxlabs/arcstore"
	"github.com/arcboxlabs/arcstore/capture"
)

// mustRun runs the command and returns its stdout.
func mustRun(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.Command("arcstore", args...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("arcstore %s: %v: %s%s", strings.Join(args, " "), err, out, stderr.String())
	}
	return string(out)
}

// exitOf returns the exit code that err, of a command's end, says; -1 where a signal ended it.
func exitOf(err error) int {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.ExitCode()
	}
	return -2
}

func writeRandom(t *testing.T, name string, n int) {
	t.Helper()
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := io.CopyN(f, rand.NewChaCha8([32]byte{byte(n)}), int64(n)); err != nil {
		t.Fatal(err)
	}
}

// TestInterruptedWait: a signal ends a command that waits for the store.
func TestInterruptedWait(t *testing.T) {
	signals := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) { // as nohup has it
		signals = append(signals, syscall.SIGHUP)
	}
	for _, sig := range signals {
		dir := filepath.Join(t.TempDir(), "store")
		t.Setenv(storeVariable, dir)
		mustRun(t, "init")
		m, err := arcstore.Open(context.Background(), dir, &arcstore.Options{Holder: "the test"})
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("arcstore", "gc", "--lock-timeout", "1h")
		stderr, err := cmd.StderrPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewReader(stderr)
		if line, err := lines.ReadString('\n'); err != nil || !strings.Contains(line, "the test") || !strings.Contains(line, "waiting") {
			t.Errorf("it says %q, %v", line, err)
		}
		if err := cmd.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
		rest, _ := io.ReadAll(lines)
		if code := exitOf(cmd.Wait()); code != exitInterrupted {
			t.Errorf("%v: exit code %d, want %d", sig, code, exitInterrupted)
		}
		if string(rest) != "arcstore: interrupted\n" {
			t.Errorf("%v: it says %q", sig, rest)
		}
		m.Close()
	}
}

// TestWaitForStore: with --lock-timeout a command goes on when the store is free.
func TestWaitForStore(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	t.Setenv(storeVariable, dir)
	mustRun(t, "init")
	m, err := arcstore.Open(context.Background(), dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(300*time.Millisecond, func() { m.Close() })
	mustRun(t, "gc", "--lock-timeout", "1m")
}

// TestInterruptedCreate: what Ctrl-C stops leaves no snapshot, and nothing that gc does not remove.
func TestInterruptedCreate(t *testing.T) {
	memory := filepath.Join(t.TempDir(), "memory")
	small := filepath.Join(t.TempDir(), "small")
	writeRandom(t, small, 1<<20)
	writeRandom(t, memory, 512<<20)
	for try := 1; ; try++ {
		dir := filepath.Join(t.TempDir(), "store")
		t.Setenv(storeVariable, dir)
		mustRun(t, "init")
		mustRun(t, "create", "vm", "web-1", "--memory", small)
		before := packBytes(t, dir)

		cmd := exec.Command("arcstore", "create", "vm", "web-1", "--memory", memory)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		deadline := time.Now().Add(time.Minute)
		for len(list(t)) < 2 && time.Now().Before(deadline) {
			time.Sleep(time.Millisecond)
		}
		if err := cmd.Process.Signal(os.Interrupt); err != nil && !errors.Is(err, os.ErrProcessDone) {
			t.Fatal(err)
		}
		code := exitOf(cmd.Wait())
		if code == exitDone && try < 5 {
			continue // it was faster than we
		}
		if code != exitInterrupted || stderr.String() != "arcstore: interrupted\n" {
			t.Fatalf("exit code %d, want %d: %s", code, exitInterrupted, stderr.String())
		}
		if left := list(t); len(left) != 1 {
			t.Errorf("%d snapshots are left, want the first alone", len(left))
		}
		mustRun(t, "gc")
		if after := packBytes(t, dir); after > before {
			t.Errorf("after gc the packs have %d bytes, before the create %d", after, before)
		}
		mustRun(t, "verify", "--data")
		return
	}
}

func list(t *testing.T) (snapshots []*arcstore.Snapshot) {
	t.Helper()
	if err := json.Unmarshal([]byte(mustRun(t, "list", "--json")), &snapshots); err != nil {
		t.Fatal(err)
	}
	return snapshots
}

// packBytes sums the files under packs/, of whatever name.
func packBytes(t *testing.T, dir string) (sum int64) {
	t.Helper()
	err := filepath.WalkDir(filepath.Join(dir, "packs"), func(_ string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			sum += info.Size()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return sum
}

// TestDemoFromFile is the demo's source where process memory cannot be read.
func TestDemoFromFile(t *testing.T) {
	const n = 16 << 20
	defer func(old string) { os.Args[0] = old }(os.Args[0])
	os.Args[0] = "arcstore" // what this program is to be when it is started again
	path := filepath.Join(t.TempDir(), "memory")
	g, err := launchDemoGuest(t.Context(), path, n)
	if err != nil {
		t.Fatal(err)
	}
	defer g.close()
	d := &demo{guest: g, size: n}
	if err := g.work(); err != nil {
		t.Fatal(err)
	}
	first, err := d.sum()
	if err != nil {
		t.Fatal(err)
	}
	again, err := d.sum()
	if err != nil || again != first {
		t.Errorf("memory changes by itself, %v", err)
	}
	if err := g.work(); err != nil {
		t.Fatal(err)
	}
	if second, err := d.sum(); err != nil || second == first {
		t.Errorf("work changes nothing, %v", err)
	}
}

func TestSameBytes(t *testing.T) {
	a := make([]byte, 3<<20+100)
	b := bytes.Clone(a)
	if err := sameBytes(t.Context(), capture.Bytes(a), capture.Bytes(b)); err != nil {
		t.Error(err)
	}
	b[2<<20+5] = 1
	b[len(b)-1] = 1
	err := sameBytes(t.Context(), capture.Bytes(a), capture.Bytes(b))
	if !errors.Is(err, errDiffers) || !strings.Contains(err.Error(), "2 pages") || !strings.Contains(err.Error(), "at byte 2097152") {
		t.Error(err)
	}
	if exitCode(err) != exitFailed {
		t.Errorf("exit code %d", exitCode(err))
	}
	if err := sameBytes(t.Context(), capture.Bytes(a), capture.Bytes(b[1:])); !errors.Is(err, errDiffers) {
		t.Error(err)
	}
}
