package guest

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestGuestDiesWithParent starts a guest in a child process and kills that.
func TestGuestDiesWithParent(t *testing.T) {
	const child = "ARCSTORE_GUEST_TEST_CHILD"
	if os.Getenv(child) != "" {
		g, err := Start(testContext(t), testImage(t, Counter), &Options{MemoryPath: os.Getenv(child)})
		if err != nil {
			t.Fatal(err)
		}
		fmt.Println("qemu", g.process.cmd.Process.Pid)
		time.Sleep(time.Minute)
		return
	}
	testImage(t, Counter)
	cmd := exec.Command(os.Args[0], "-test.run=^TestGuestDiesWithParent$")
	cmd.Env = append(os.Environ(), child+"="+t.TempDir()+"/memory")
	out, err := cmd.StdoutPipe()
	check(t, err)
	check(t, cmd.Start())
	pid := 0
	for lines := bufio.NewScanner(out); pid == 0 && lines.Scan(); {
		if number, ok := strings.CutPrefix(lines.Text(), "qemu "); ok {
			pid, err = strconv.Atoi(number)
			check(t, err)
		}
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if pid == 0 {
		t.Fatal("the child started no guest")
	}
	for range 100 {
		if !alive(pid) {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Errorf("qemu %d outlives its parent", pid)
	check(t, syscall.Kill(pid, syscall.SIGKILL))
}

// alive reports whether a process runs; one that waits to be collected by whoever has inherited it does not.
func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(stat), ") Z ")
}

func TestCopySparseKeepsHoles(t *testing.T) {
	source, err := os.CreateTemp(t.TempDir(), "")
	check(t, err)
	defer source.Close()
	const size = 64<<20 + 4096
	check(t, source.Truncate(size))
	for _, at := range []int64{0, 5<<20 + 12345, 33 << 20, size - 1} {
		_, err := source.WriteAt([]byte("data"), min(at, size-4))
		check(t, err)
	}
	_, err = source.WriteAt(make([]byte, 8<<20), 40<<20)
	check(t, err)

	target := t.TempDir() + "/copy"
	check(t, copySparse(t.Context(), target, source, size))
	want, err := os.ReadFile(source.Name())
	check(t, err)
	got, err := os.ReadFile(target)
	check(t, err)
	if string(got) != string(want) {
		t.Error("the copy differs")
	}
	if used := usedBytes(t, target); used > 4*holeBytes {
		t.Errorf("the copy takes %d bytes", used)
	}
}

func usedBytes(t *testing.T, path string) int64 {
	t.Helper()
	var stat syscall.Stat_t
	check(t, syscall.Stat(path, &stat))
	return stat.Blocks * 512
}
