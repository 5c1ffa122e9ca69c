package capture

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/arcboxlabs/arcstore/chunker"
)

// lacks skips a test for want of a part of this machine, or fails it where
// $ARCSTORE_TEST_REQUIRE lists criu.
func lacks(t *testing.T, format string, args ...any) {
	t.Helper()
	if slices.Contains(strings.Split(os.Getenv("ARCSTORE_TEST_REQUIRE"), ","), "criu") {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

// criuPath finds CRIU in $ARCSTORE_CRIU or the path, or skips the test.
func criuPath(t *testing.T) string {
	t.Helper()
	name := os.Getenv("ARCSTORE_CRIU")
	if name == "" {
		var err error
		if name, err = exec.LookPath("criu"); err != nil {
			lacks(t, "needs CRIU 4.1 or later: apt-get install criu on Debian 13 and later, or set ARCSTORE_CRIU to one that you built")
		}
	}
	if os.Getuid() != 0 {
		lacks(t, "needs root, to checkpoint with CRIU")
	}
	if out, err := exec.Command(name, "check").CombinedOutput(); err != nil {
		lacks(t, "CRIU cannot checkpoint on this machine: %s check: %v\n%s", name, err, out)
	}
	return name
}

// runCRIU runs CRIU on an image directory, and fails the test with the end of its log.
func runCRIU(t *testing.T, action, dir string, args ...string) {
	t.Helper()
	args = append([]string{action, "-D", dir, "-v4", "-o", action + ".log", "--tcp-established", "--file-locks"}, args...)
	if out, err := exec.Command(criuPath(t), args...).CombinedOutput(); err != nil {
		log, _ := os.ReadFile(filepath.Join(dir, action+".log"))
		t.Fatalf("criu %s: %v\n%s\n%s", strings.Join(args, " "), err, out, log[max(0, len(log)-2000):])
	}
}

// A victim is a running testdata/victim.py, in its own directory.
type victim struct {
	dir  string
	pid  int
	port int   // it listens at; 0 if it has no sockets of the internet
	pids []int // its own first
}

// startVictim starts one, and kills it, or what was restored of it, in the end.
func startVictim(t *testing.T) *victim {
	t.Helper()
	python := "/usr/bin/python3"
	if _, err := os.Stat(python); err != nil {
		if python, err = exec.LookPath("python3"); err != nil {
			lacks(t, "needs python3, as a process to checkpoint: apt-get install python3")
		}
	}
	// Its children, and what CRIU restores, are this process's to wait for.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	script, err := filepath.Abs("testdata/victim.py")
	if err != nil {
		t.Fatal(err)
	}
	v := &victim{dir: t.TempDir()}
	// CRIU up to 4.1 cannot dump sockets of the internet on kernels from 6.16
	// on, which refuse to tell SO_PASSCRED of them.
	if !criuIs41(t) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		v.port = l.Addr().(*net.TCPAddr).Port
		l.Close()
	}
	cmd := exec.Command(python, script, strconv.Itoa(v.port))
	cmd.Dir = v.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	v.pid = cmd.Process.Pid
	v.pids = []int{v.pid}
	t.Cleanup(func() { v.kill() })
	v.digest(t)
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", v.pid, v.pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, field := range strings.Fields(string(children)) {
		pid, err := strconv.Atoi(field)
		if err != nil {
			t.Fatal(err)
		}
		v.pids = append(v.pids, pid)
	}
	return v
}

// kill ends the victim, so that its process IDs are free again.
func (v *victim) kill() {
	for _, pid := range v.pids {
		syscall.Kill(pid, syscall.SIGKILL)
	}
	v.reap()
}

// reap waits for the end of the victim's processes.
func (v *victim) reap() {
	for _, pid := range v.pids {
		for range 500 {
			syscall.Wait4(pid, nil, syscall.WNOHANG, nil)
			if syscall.Kill(pid, 0) != nil {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
}

// digest waits for what the victim says that its memory holds.
func (v *victim) digest(t *testing.T) string {
	t.Helper()
	name := filepath.Join(v.dir, "digest")
	for range 1000 {
		b, err := os.ReadFile(name)
		if err == nil {
			return string(b)
		}
		if !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("process %d does not say what its memory holds", v.pid)
	return ""
}

// ask lets the victim look at its memory anew.
func (v *victim) ask(t *testing.T) string {
	t.Helper()
	if err := os.Remove(filepath.Join(v.dir, "digest")); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(v.pid, syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	return v.digest(t)
}

// dump checkpoints the victim into a new directory, and so ends it unless it is to go on.
func (v *victim) dump(t *testing.T, args ...string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "full")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	runCRIU(t, "dump", dir, append(args, "-t", strconv.Itoa(v.pid))...)
	if !slices.Contains(args, "--leave-running") {
		v.reap()
	}
	return dir
}

// restore brings the victim back from images, sees that its memory is as it was, and kills it.
func (v *victim) restore(t *testing.T, dir, want string) {
	t.Helper()
	runCRIU(t, "restore", dir, "-d")
	if got := v.ask(t); got != want {
		t.Errorf("restored from %s, its memory is not what it was", dir)
	}
	v.kill()
}

// readSource returns all the bytes of a source.
func readSource(t *testing.T, src chunker.Source) []byte {
	t.Helper()
	b := make([]byte, src.Size())
	if err := chunker.ReadFull(src, b, 0); err != nil {
		t.Fatal(err)
	}
	return b
}

// criuIs41 reports whether CRIU is one of 4.1.
func criuIs41(t *testing.T) bool {
	t.Helper()
	out, err := exec.Command(criuPath(t), "--version").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.Contains(string(out), "Version: 4.1")
}
