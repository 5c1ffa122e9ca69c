package capture

import (
	"fmt"
	"maps"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/arcboxlabs/arcstore/manifest"
)

// TestDescribeDump describes a dump of a process that has one of each kind.
func TestDescribeDump(t *testing.T) {
	v := startVictim(t)
	images := openDir(t, v.dump(t, "--leave-running"))
	c, warnings, err := Describe(images)
	if err != nil {
		t.Fatal(err)
	}
	if len(warnings) != 0 {
		t.Errorf("warnings: %q", warnings)
	}
	again, _, err := Describe(images)
	if err != nil {
		t.Fatal(err)
	}
	one, err := c.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if two, err := again.Encode(); err != nil || string(one) != string(two) {
		t.Errorf("a second description differs (%v)", err)
	}

	root, child := c.Processes[0], c.Processes[1]
	if root.PID != v.pid || root.Parent != 0 || root.Session != v.pid || root.Threads != 2 || !strings.HasPrefix(root.Name, "python") || root.State != "running" {
		t.Errorf("root process: %+v", root)
	}
	if child.PID != v.pids[1] || child.Parent != v.pid || child.Session != v.pid || child.Threads != 1 || child.Name != "victim-child" || len(c.Processes) != 2 {
		t.Errorf("child process: %+v of %d", child, len(c.Processes))
	}
	if root.Memory < 300*4096 || root.Memory%4096 != 0 || root.Mapped < root.Memory || root.Mapped > 1<<40 {
		t.Errorf("memory of the root process: %+v", root)
	}
	if want := (manifest.CheckpointOptions{TCPEstablished: v.port != 0, FileLocks: true}); !reflect.DeepEqual(c.Options, want) {
		t.Errorf("options: %+v, want %+v", c.Options, want)
	}

	files := map[string]int{}
	for _, f := range c.Files {
		if f.PID == v.pid {
			files[f.Type+" "+strings.TrimPrefix(f.Path, v.dir+"/")]++
		}
	}
	want := map[string]int{"file /dev/null": 3, "file plain file": 1, `file odd\xff\nname`: 1, "fifo fifo": 1, "pipe ": 2, "epoll ": 1}
	if !maps.Equal(files, want) {
		t.Errorf("open files: %v, want %v", files, want)
	}

	var sockets []manifest.Socket
	for _, s := range c.Sockets {
		if s.PID == v.pid {
			s.PID, s.FD = 0, 0
			sockets = append(sockets, s)
		}
	}
	server := fmt.Sprintf("127.0.0.1:%d", v.port)
	expected := []manifest.Socket{
		{Family: "unix", Type: "stream", State: "listen", Local: fmt.Sprintf(`@arcstore \xff%d`, v.pid)},
		{Family: "unix", Type: "stream", State: "listen", Local: filepath.Join(v.dir, "named.sock")},
		{Family: "unix", Type: "stream", State: "established"},
		{Family: "unix", Type: "stream", State: "established"},
	}
	if v.port != 0 {
		expected = append(expected, manifest.Socket{Family: "inet", Type: "stream", State: "listen", Local: server})
		client := slices.IndexFunc(sockets, func(s manifest.Socket) bool { return s.Remote == server })
		if client < 0 {
			t.Fatalf("no socket is connected to %s: %+v", server, sockets)
		}
		port := sockets[client].Local
		expected = append(expected, manifest.Socket{Family: "inet", Type: "stream", State: "established", Local: port, Remote: server},
			manifest.Socket{Family: "inet", Type: "stream", State: "established", Local: server, Remote: port},
			manifest.Socket{Family: "inet6", Type: "dgram", State: "close", Local: "[::]:0"})
	}
	for _, w := range expected {
		if !slices.Contains(sockets, w) {
			t.Errorf("no socket %+v", w)
		}
	}
	if len(sockets) != len(expected) {
		t.Errorf("%d sockets, want %d: %+v", len(sockets), len(expected), sockets)
	}
}
