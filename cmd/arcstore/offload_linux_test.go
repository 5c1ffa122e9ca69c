package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/arcboxlabs/arcstore"
	"github.com/arcboxlabs/arcstore/bench/cloudhypervisor"
)

// newCloudGuest makes a guest whose second page has content.
func newCloudGuest(t *testing.T, content string) *cloudhypervisor.VM {
	t.Helper()
	vm, err := cloudhypervisor.NewVM([]cloudhypervisor.Region{{Slot: 0, Size: 1 << 20, Zone: "mem0"}, {Slot: 1, GPA: 4 << 30, Size: 1 << 20, Zone: "mem0", FileOffset: 1 << 20}}, "")
	if err == nil {
		err = vm.Write(&vm.Regions[1], cloudhypervisor.PageSize, []byte(content))
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(vm.Close)
	return vm
}

// startOffload starts a command, and waits until there is the socket.
func startOffload(t *testing.T, socket string, args ...string) (cmd *exec.Cmd, out *bytes.Buffer) {
	t.Helper()
	cmd, out = exec.Command("arcstore", args...), new(bytes.Buffer)
	cmd.Stdout, cmd.Stderr = out, os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill() })
	for until := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if info, err := os.Stat(socket); err == nil && info.Mode().Perm() == 0o600 {
			return cmd, out
		}
		if time.Now().After(until) {
			t.Fatal("there is no socket")
		}
	}
}

// A guest is taken by the command, beside a process that holds the store or not, and handed back by it.
func TestOffloadCommand(t *testing.T) {
	for _, served := range []bool{false, true} {
		dir, err := os.MkdirTemp("", "ch") // a short path
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		t.Setenv(storeVariable, filepath.Join(dir, "store"))
		mustRun(t, "init")
		stop := func() {}
		if served {
			if stop, err = serveStore(filepath.Join(dir, "store")); err != nil {
				t.Fatal(err)
			}
		}
		vm := newCloudGuest(t, "all is well")
		socket := filepath.Join(dir, "take")
		cmd, out := startOffload(t, socket, "offload", "create", "web-1", "--socket", socket, "--json", "--label", "a=b")
		if err := vm.Send(t.Context(), socket, nil); err != nil {
			t.Error(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Fatal(err)
		}
		var s arcstore.Snapshot
		if err := json.Unmarshal(out.Bytes(), &s); err != nil || s.TargetID != "web-1" || s.Labels["a"] != "b" {
			t.Errorf("%s: %v", out, err)
		}
		stop()
		for _, flags := range [][]string{nil, {"--on-demand", "--resume"}} {
			socket := filepath.Join(dir, "give")
			l, err := cloudhypervisor.Listen(socket)
			if err != nil {
				t.Fatal(err)
			}
			cmd, out := exec.Command("arcstore", append([]string{"offload", "restore", "web-1@latest", "--socket", socket, "--json"}, flags...)...), new(bytes.Buffer)
			cmd.Stdout, cmd.Stderr = out, os.Stderr
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			g, err := l.Receive(cloudhypervisor.ReceiveOptions{Postcopy: flags != nil})
			if errors.Is(err, cloudhypervisor.ErrNoUserfault) {
				t.Skip(err)
			}
			if err != nil {
				t.Fatal(err)
			}
			if flags != nil {
				if err := g.Wait(); err != nil {
					t.Error(err)
				}
			}
			b, err := g.Contents(&g.Regions[1])
			if err != nil || !bytes.HasPrefix(b[cloudhypervisor.PageSize:], []byte("all is well\x00")) || g.Resumed != (flags != nil) {
				t.Errorf("%s, %v", b[cloudhypervisor.PageSize:][:11], err)
			}
			g.Close()
			var r arcstore.OffloadReport
			if err := cmd.Wait(); err != nil || json.Unmarshal(out.Bytes(), &r) != nil || r.Snapshot != s.ID || r.BytesServed != 2<<20 || (r.Faults > 0) != (flags != nil) {
				t.Errorf("%s: %v", out, err)
			}
			l.Close()
		}
	}
}

// A command that is interrupted, or killed, leaves Cloud Hypervisor its guest, and no snapshot.
func TestOffloadInterrupted(t *testing.T) {
	for _, signal := range []os.Signal{os.Interrupt, os.Kill} {
		dir, err := os.MkdirTemp("", "ch")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		t.Setenv(storeVariable, filepath.Join(dir, "store"))
		mustRun(t, "init")
		vm := newCloudGuest(t, "all is well")
		socket := filepath.Join(dir, "take")
		cmd, _ := startOffload(t, socket, "offload", "create", "web-1", "--socket", socket)
		err = vm.Send(t.Context(), socket, &cloudhypervisor.SendOptions{Before: func(command uint16, _ *net.UnixConn) error {
			if command == cloudhypervisor.CmdState {
				return cmd.Process.Signal(signal)
			}
			return nil
		}})
		if !errors.Is(err, cloudhypervisor.ErrKept) {
			t.Error(err)
		}
		cmd.Wait()
		if code := cmd.ProcessState.ExitCode(); signal == os.Interrupt && code != exitInterrupted {
			t.Errorf("exit code %d", code)
		}
		if list := mustRun(t, "list", "--json"); strings.TrimSpace(list) != "[]" {
			t.Errorf("%s", list)
		}
		// What was killed left its socket.
		cmd, _ = startOffload(t, socket, "offload", "create", "web-1", "--socket", socket)
		time.Sleep(100 * time.Millisecond)
		for until := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			if err = vm.Send(t.Context(), socket, nil); err == nil || time.Now().After(until) {
				break
			}
		}
		if err := errors.Join(err, cmd.Wait()); err != nil {
			t.Error(err)
		}
	}
}
