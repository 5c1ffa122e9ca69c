package arcstore_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/arcboxlabs/arcstore"
)

// podman is podman with everything that it keeps in a directory of its own.
type podman struct {
	t   *testing.T
	dir string
	env []string
}

func newPodman(t *testing.T) *podman {
	t.Helper()
	for _, program := range []string{"podman", "runc", "busybox"} {
		if _, err := exec.LookPath(program); err != nil {
			if slices.Contains(strings.Split(os.Getenv("ARCSTORE_TEST_REQUIRE"), ","), "podman") {
				t.Fatalf("there is no %s", program)
			}
			t.Skipf("there is no %s: apt-get install podman runc busybox-static", program)
		}
	}
	p := &podman{t: t, dir: t.TempDir(), env: os.Environ()}
	// podman looks for CRIU in PATH.
	if criu := os.Getenv("ARCSTORE_CRIU"); criu != "" {
		p.env = append(p.env, "PATH="+filepath.Dir(criu)+":"+os.Getenv("PATH"))
	}
	return p
}

// run runs a command of podman's, and returns what it prints.
func (p *podman) run(args ...string) string {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	all := append([]string{"--storage-driver", "vfs", "--root", filepath.Join(p.dir, "root"), "--runroot", filepath.Join(p.dir, "run"), "--runtime", "runc",
		"--cgroup-manager", "cgroupfs"}, args...)
	cmd := exec.CommandContext(ctx, "podman", all...)
	cmd.Env = p.env
	var said strings.Builder
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		p.t.Fatalf("podman %s: %v: %s", strings.Join(args, " "), err, said.String())
	}
	return string(out)
}

// count is how far the container has counted.
func (p *podman) count(name string) int {
	p.t.Helper()
	n, err := strconv.Atoi(strings.TrimSpace(p.run("exec", name, "/bin/busybox", "cat", "/count")))
	if err != nil {
		p.t.Fatal(err)
	}
	return n
}

// TestPodman: what podman exports goes in, comes out, and podman brings it back to life.
func TestPodman(t *testing.T) {
	c := newCheckpoints(t)
	p := newPodman(t)
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(t.TempDir(), "root")
	if err := os.MkdirAll(filepath.Join(root, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(busybox)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "bin", "busybox"), program, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"sh", "sleep"} {
		if err := os.Symlink("busybox", filepath.Join(root, "bin", name)); err != nil {
			t.Fatal(err)
		}
	}
	image := filepath.Join(t.TempDir(), "image.tar")
	if out, err := exec.Command("tar", "-C", root, "-cf", image, ".").CombinedOutput(); err != nil {
		t.Fatalf("tar: %v: %s", err, out)
	}
	p.run("import", image, "localhost/counter")
	// Not every machine lets a container have more files and processes than these.
	p.run("run", "--detach", "--name", "one", "--network", "none", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024", "localhost/counter",
		"/bin/sh", "-c", "i=0; while :; do i=$((i+1)); echo $i >/count; sleep 0.1; done")
	t.Cleanup(func() { p.run("rm", "--force", "--all", "--time", "0") })
	for p.count("one") < 5 {
		time.Sleep(50 * time.Millisecond)
	}
	before := p.count("one")
	archive, again := filepath.Join(t.TempDir(), "one.tar"), filepath.Join(t.TempDir(), "again.tar")
	p.run("container", "checkpoint", "--export", archive, "one")
	s := c.take(t, arcstore.Container{Images: archive})
	out, err := os.Create(again)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.m.ExportArchive(t.Context(), s.ID, out, nil); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	p.run("rm", "--force", "--time", "0", "one")
	p.run("container", "restore", "--import", again, "--name", "two")
	after := p.count("two")
	for deadline := time.Now().Add(time.Minute); p.count("two") <= after; {
		if time.Now().After(deadline) {
			t.Fatal("it does not count")
		}
	}
	if after < before {
		t.Errorf("it goes on with %d, and was at %d", after, before)
	}
}
