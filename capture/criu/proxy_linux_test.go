package criu_test

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/arcboxlabs/arcstore/capture/criu"
)

// container runs a container of runc's that counts in a file; it returns runc's root, and how far it is.
func container(t *testing.T, id string) (root string, count func() int) {
	t.Helper()
	busybox, err := exec.LookPath("busybox")
	if err == nil {
		_, err = exec.LookPath("runc")
	}
	if err != nil || os.Geteuid() != 0 {
		need(t, "runc", "runc or busybox is missing, or this is not root: apt-get install runc busybox-static, and run the test as root")
	}
	bundle, root, data := t.TempDir(), t.TempDir(), t.TempDir()
	bin := filepath.Join(bundle, "rootfs", "bin")
	for _, dir := range []string{bin, filepath.Join(bundle, "rootfs", "data")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	program, err := os.ReadFile(busybox)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(bin, "sh"), program, 0o755); err != nil {
		t.Fatal(err)
	}
	run(t, bundle, "runc", "spec")
	file := filepath.Join(bundle, "config.json")
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var spec map[string]any
	if err := json.Unmarshal(b, &spec); err != nil {
		t.Fatal(err)
	}
	process := spec["process"].(map[string]any)
	process["terminal"] = false
	process["args"] = []string{"/bin/sh", "-c", "i=0; while :; do i=$((i+1)); echo $i >/data/count.new; mv /data/count.new /data/count; sleep 0.01; done"}
	var namespaces []any
	for _, n := range spec["linux"].(map[string]any)["namespaces"].([]any) {
		if kind := n.(map[string]any)["type"]; kind != "network" && kind != "cgroup" {
			namespaces = append(namespaces, n)
		}
	}
	spec["linux"].(map[string]any)["namespaces"] = namespaces
	spec["mounts"] = append(spec["mounts"].([]any), map[string]any{"destination": "/data", "type": "bind", "source": data, "options": []string{"bind", "rw"}})
	if b, err = json.Marshal(spec); err == nil {
		err = os.WriteFile(file, b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { exec.Command("runc", "--root", root, "delete", "--force", id).Run() })
	run(t, bundle, "runc", "--root", root, "run", "--detach", "--bundle", bundle, id)
	count = func() int {
		b, err := os.ReadFile(filepath.Join(data, "count"))
		n, _ := strconv.Atoi(strings.TrimSpace(string(b)))
		if err != nil {
			return 0
		}
		return n
	}
	goesOn(t, count)
	return root, count
}

// run runs a program without output, which a container would inherit and CRIU not find.
func run(t *testing.T, dir, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %s: %v", name, strings.Join(args, " "), err)
	}
}

func TestProxyHolds(t *testing.T) {
	path := installed(t)
	const id = "arcstore-test-proxy"
	root, count := container(t, id)
	broken := errors.New("the disk is full")
	checkpoint := func(result error, args ...string) error {
		images, work := t.TempDir(), t.TempDir()
		p, err := criu.NewProxy(t.Context(), t.TempDir(), path, 1<<20, nil, func() error {
			at := count()
			time.Sleep(200 * time.Millisecond)
			if count() != at {
				t.Errorf("the container runs while its images are made safe")
			}
			if _, err := os.Stat(filepath.Join(images, "inventory.img")); err != nil {
				t.Error(err)
			}
			return result
		})
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("runc", append([]string{"--root", root, "checkpoint", "--image-path", images, "--work-path", work}, append(args, id)...)...)
		cmd.Env = p.Env(os.Environ())
		out, err := cmd.CombinedOutput()
		t.Logf("runc: %v %s", err, out)
		if (err == nil) != (result == nil) {
			t.Errorf("runc checkpoint: %v", err)
		}
		return p.Close()
	}
	if err := checkpoint(broken); !errors.Is(err, broken) {
		t.Fatalf("proxy = %v, want %v", err, broken)
	}
	goesOn(t, count)
	if err := checkpoint(nil, "--leave-running"); err != nil {
		t.Fatal(err)
	}
	goesOn(t, count)
	if err := checkpoint(nil); err != nil {
		t.Fatal(err)
	}
	at := count()
	time.Sleep(100 * time.Millisecond)
	if count() != at {
		t.Errorf("the container runs after its checkpoint")
	}
}
