package processes

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// Container is a container of runc's that counts in a file of the host's.
type Container struct {
	Process
	ID     string
	Root   string // runc's --root
	Bundle string
}

// counting is what the container does: it counts, in memory too.
const counting = `i=0; while :; do i=$((i+1)); echo $i >/data/count.new; mv /data/count.new /data/count; sleep 0.01; done`

// Runc starts a container of runc's, from busybox alone. dir is for its files.
func Runc(ctx context.Context, dir, id string) (*Container, error) {
	busybox, err := program("runc", "busybox", "apt-get install busybox-static")
	if err == nil {
		_, err = program("runc", "runc", "apt-get install runc")
	}
	if err == nil && os.Geteuid() != 0 {
		err = &Missing{"runc", "containers need root: run the tests as root"}
	}
	if err != nil {
		return nil, err
	}
	data := filepath.Join(dir, "data")
	c := &Container{ID: id, Root: filepath.Join(dir, "root"), Bundle: filepath.Join(dir, "bundle"), Process: Process{file: filepath.Join(data, "count")}}
	if err := c.bundle(ctx, busybox, data); err != nil {
		return nil, fmt.Errorf("processes: %w", err)
	}
	// Without a standard output: the container would inherit it, and CRIU not find it.
	if err := exec.CommandContext(ctx, "runc", "--root", c.Root, "run", "--detach", "--bundle", c.Bundle, id).Run(); err != nil {
		return nil, fmt.Errorf("processes: runc run: %w", err)
	}
	return c, c.GoesOn(ctx)
}

// bundle makes the container's bundle.
func (c *Container) bundle(ctx context.Context, busybox, data string) error {
	bin := filepath.Join(c.Bundle, "rootfs", "bin")
	for _, dir := range []string{bin, data, c.Root, filepath.Join(c.Bundle, "rootfs", "data")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	program, err := os.ReadFile(busybox)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(bin, "sh"), program, 0o755); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "runc", "spec")
	cmd.Dir = c.Bundle
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("runc spec: %w", err)
	}
	file := filepath.Join(c.Bundle, "config.json")
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var spec map[string]any
	if err := json.Unmarshal(b, &spec); err != nil {
		return err
	}
	process, _ := spec["process"].(map[string]any)
	linux, _ := spec["linux"].(map[string]any)
	namespaces, _ := linux["namespaces"].([]any)
	mounts, _ := spec["mounts"].([]any)
	root, _ := spec["root"].(map[string]any)
	if process == nil || linux == nil || root == nil {
		return fmt.Errorf("runc spec: unexpected content")
	}
	process["terminal"] = false
	root["readonly"] = false // CRIU makes a directory there when it restores
	process["args"] = []string{"/bin/sh", "-c", counting}
	var kept []any
	for _, n := range namespaces {
		// CRIU cannot restore a cgroup namespace, and a network would need more than this test is about.
		if ns, _ := n.(map[string]any); ns["type"] != "network" && ns["type"] != "cgroup" {
			kept = append(kept, n)
		}
	}
	linux["namespaces"] = kept
	spec["mounts"] = append(mounts, map[string]any{"destination": "/data", "type": "bind", "source": data, "options": []string{"bind", "rw"}})
	if b, err = json.Marshal(spec); err != nil {
		return err
	}
	return os.WriteFile(file, b, 0o600)
}

// Delete ends a container and forgets it, under whatever ID.
func (c *Container) Delete(id string) {
	exec.Command("runc", "--root", c.Root, "delete", "--force", id).Run()
}
