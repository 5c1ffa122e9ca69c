package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestFullDisk: a create that fills the disk fails, and what was in the store stays whole.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=24m"); err != nil {
		t.Skip("needs the right to mount a small file system: ", err)
	}
	defer syscall.Unmount(dir, syscall.MNT_DETACH)
	t.Setenv(storeVariable, filepath.Join(dir, "store"))
	small, large := filepath.Join(t.TempDir(), "small"), filepath.Join(t.TempDir(), "large")
	writeRandom(t, small, 1<<20)
	writeRandom(t, large, 64<<20)

	mustRun(t, "init")
	mustRun(t, "create", "vm", "web-1", "--memory", small)
	out, err := exec.Command("arcstore", "create", "vm", "web-1", "--memory", large).CombinedOutput()
	if code := exitOf(err); code != exitFailed {
		t.Fatalf("exit code %d, want %d: %s", code, exitFailed, out)
	}
	for _, want := range []string{"no space left on device", "nothing in the store is harmed"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("message lacks %q: %s", want, out)
		}
	}
	mustRun(t, "gc")
	mustRun(t, "verify", "--data")
	if got := mustRun(t, "restore", "web-1@latest", "--stream", "memory", "--output", "-"); got != readFile(t, small) {
		t.Error("the snapshot that was there before differs")
	}
	// With the leftovers gone, there is room again.
	if free := freeBytes(t, dir); free < 12<<20 {
		t.Errorf("only %d bytes are free after gc", free)
	}
}

// TestFullDiskIsFreed: with not a byte left, delete and gc work and make room.
func TestFullDiskIsFreed(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=24m"); err != nil {
		t.Skip("needs the right to mount a small file system: ", err)
	}
	defer syscall.Unmount(dir, syscall.MNT_DETACH)
	t.Setenv(storeVariable, filepath.Join(dir, "store"))
	var files []string
	for i, size := range []int{1 << 20, 8 << 20, 4 << 20} {
		files = append(files, filepath.Join(t.TempDir(), fmt.Sprint("memory", i)))
		writeRandom(t, files[i], size)
	}
	mustRun(t, "init")
	mustRun(t, "create", "vm", "stays", "--memory", files[0])
	mustRun(t, "create", "vm", "goes", "--memory", files[1])
	fillUp(t, filepath.Join(dir, "something"))

	out, err := exec.Command("arcstore", "create", "vm", "next", "--memory", files[2]).CombinedOutput()
	if code := exitOf(err); code != exitFailed {
		t.Fatalf("exit code %d, want %d: %s", code, exitFailed, out)
	}
	if s := strings.TrimSpace(string(out)); strings.Contains(s, "\n") || !strings.Contains(s, "no space left on device") {
		t.Errorf("the message is %q", s)
	}
	fillUp(t, filepath.Join(dir, "more"))
	mustRun(t, "delete", "goes@latest")
	mustRun(t, "gc")

	if free := freeBytes(t, dir); free < 7<<20 {
		t.Errorf("only %d bytes are free after delete and gc", free)
	}
	mustRun(t, "create", "vm", "next", "--memory", files[2])
	mustRun(t, "verify", "--data")
	for i, target := range map[int]string{0: "stays", 2: "next"} {
		if got := mustRun(t, "restore", target+"@latest", "--stream", "memory", "--output", "-"); got != readFile(t, files[i]) {
			t.Errorf("%s comes back different", target)
		}
	}
}

// fillUp writes a file until nothing more fits.
func fillUp(t *testing.T, name string) {
	t.Helper()
	f, err := os.Create(name)
	if err != nil {
		if errors.Is(err, syscall.ENOSPC) {
			return
		}
		t.Fatal(err)
	}
	defer f.Close()
	for b := make([]byte, 4096); err == nil; {
		_, err = f.Write(b)
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
}

func freeBytes(t *testing.T, dir string) int64 {
	t.Helper()
	var fs syscall.Statfs_t
	if err := syscall.Statfs(dir, &fs); err != nil {
		t.Fatal(err)
	}
	return int64(fs.Bavail) * fs.Bsize
}

// TestDemoReadsProcessMemory: on Linux the demo's source is the process itself.
func TestDemoReadsProcessMemory(t *testing.T) {
	if _, err := os.Stat("/proc/self/mem"); err != nil {
		t.Skip("needs /proc: ", err)
	}
	out := mustRun(t, "demo", "--size", "16MiB")
	if !strings.Contains(out, "/proc/") {
		t.Errorf("it read something else:\n%s", out)
	}
}

func readFile(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
