package main

import (
	"bytes"
	"context"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/arcboxlabs/arcstore/bench/s3server"
	"github.com/arcboxlabs/arcstore/bench/vmm"
	"github.com/arcboxlabs/arcstore/restore/uffd"
)

// faultsGuest is a store with a snapshot, which the command serves.
type faultsGuest struct {
	t      *testing.T
	memory string
	pages  []int64
}

func newFaultsGuest(t *testing.T) *faultsGuest {
	t.Helper()
	f, err := uffd.Open(uffd.FeatureRemove)
	if err != nil {
		t.Skip("userfaultfd cannot be had here: run the tests as root, or make /dev/userfaultfd readable: ", err)
	}
	f.Close()
	g := &faultsGuest{t: t, memory: filepath.Join(t.TempDir(), "memory")}
	t.Setenv(storeVariable, filepath.Join(t.TempDir(), "store"))
	writeRandom(t, g.memory, 8<<20)
	for _, page := range rand.New(rand.NewPCG(1, 1)).Perm(8 << 20 / 4096) {
		g.pages = append(g.pages, int64(page))
	}
	mustRun(t, "init")
	mustRun(t, "create", "vm", "web-1", "--memory", g.memory)
	return g
}

// serve starts the command, and waits until its socket is there.
func (g *faultsGuest) serve(args ...string) (cmd *exec.Cmd, socket string, said *bytes.Buffer) {
	g.t.Helper()
	socket, said = filepath.Join(g.t.TempDir(), "s"), &bytes.Buffer{}
	cmd = exec.Command("arcstore", append([]string{"serve-faults", "web-1@latest", "--socket", socket}, args...)...)
	cmd.Stderr = said
	if err := cmd.Start(); err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	for !isThere(socket) {
		time.Sleep(5 * time.Millisecond)
	}
	return cmd, socket, said
}

func (g *faultsGuest) start(socket string) *vmm.VMM {
	g.t.Helper()
	v, err := vmm.Start(context.Background(), &vmm.Config{Socket: socket, Memory: g.memory, PageSize: 4096, Regions: []vmm.Region{{Size: 8 << 20}}})
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(v.Kill)
	return v
}

func (g *faultsGuest) touch(v *vmm.VMM, pages []int64) {
	g.t.Helper()
	if done, err := v.Do(&vmm.Do{Touch: pages, Threads: 2}); err != nil || len(done.Wrong) > 0 || len(done.Poisoned) > 0 {
		g.t.Fatal(done, err)
	}
}

func TestServeFaults(t *testing.T) {
	g := newFaultsGuest(t)
	t.Run("the VMM ends", func(t *testing.T) {
		cmd, socket, said := g.serve("--fill-rate", "0")
		v := g.start(socket)
		g.touch(v, g.pages)
		if isThere(socket) {
			t.Error("the socket is still there")
		}
		v.Close()
		if err := cmd.Wait(); err != nil || !strings.Contains(said.String(), "needs nothing more") {
			t.Error(err, said)
		}
	})
	t.Run("the service is told to end", func(t *testing.T) {
		for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGUSR1} {
			cmd, socket, said := g.serve("--fill-rate", "4KiB", "--record", "1h")
			v := g.start(socket)
			g.touch(v, g.pages[:10])
			cmd.Process.Signal(signal)
			if err := cmd.Wait(); err != nil {
				t.Error(err, said)
			}
			g.touch(v, g.pages)
			v.Close()
		}
	})
	t.Run("the service dies", func(t *testing.T) {
		cmd, socket, _ := g.serve("--fill-rate", "0", "--no-working-set")
		v := g.start(socket)
		g.touch(v, g.pages[:10])
		cmd.Process.Kill()
		cmd.Wait()
		if v.Wait() == nil {
			t.Error("the VMM was not killed")
		}
	})
	t.Run("all is loaded", func(t *testing.T) {
		cmd, socket, said := g.serve("--record", "50ms", "--fill-rate", "1GiB")
		v := g.start(socket)
		if err := cmd.Wait(); err != nil {
			t.Error(err, said)
		}
		g.touch(v, g.pages)
		v.Close()
	})
	t.Run("somebody else's memory", func(t *testing.T) {
		cmd, socket, said := g.serve()
		v, err := vmm.Start(context.Background(), &vmm.Config{Socket: socket, Memory: g.memory, PageSize: 4096, Regions: []vmm.Region{{Size: 4 << 20}}})
		if err == nil {
			err = v.Wait()
		}
		if code := exitOf(cmd.Wait()); err == nil || code != exitFailed || !strings.Contains(said.String(), "was killed") {
			t.Errorf("exit code %d, the VMM: %v: %s", code, err, said)
		}
	})
}

// From a bucket: other commands use it meanwhile, and what is missing is loaded after the service was told to end.
func TestServeFaultsFrom(t *testing.T) {
	s := startServer(t, s3server.Kinds[0])
	if err := makeBucket(s, "faults", false, false); err != nil {
		t.Fatal(err)
	}
	t.Setenv("AWS_ACCESS_KEY_ID", s.Access)
	t.Setenv("AWS_SECRET_ACCESS_KEY", s.Secret)
	t.Setenv("AWS_REGION", "us-east-1")
	g := newFaultsGuest(t)
	mustRun(t, "remote", "add", "offsite", "s3://faults", "--endpoint", s.Endpoint)
	mustRun(t, "push", "--all")
	cmd, socket, said := g.serve("--from", "offsite", "--fill-rate", "4KiB", "--record", "50ms")
	v := g.start(socket)
	g.touch(v, g.pages[:20])
	mustRun(t, "push", "--all")
	time.Sleep(100 * time.Millisecond)
	cmd.Process.Signal(syscall.SIGTERM)
	if err := cmd.Wait(); err != nil {
		t.Error(err, said)
	}
	g.touch(v, g.pages)
	v.Close()
}

func TestMountCommand(t *testing.T) {
	g := newFaultsGuest(t)
	if os.Getuid() != 0 || !isThere("/dev/fuse") {
		t.Skip("needs root and /dev/fuse")
	}
	dir := t.TempDir()
	start := func() *exec.Cmd {
		cmd := exec.Command("arcstore", "mount", dir)
		var said bytes.Buffer
		cmd.Stderr = &said
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			cmd.Process.Kill()
			cmd.Wait()
			syscall.Unmount(dir, syscall.MNT_DETACH)
		})
		for n := 0; ; n++ {
			if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 { // names alone the kernel remembers for a while
				break
			}
			if n > 2000 {
				t.Fatal(said.String())
			}
			time.Sleep(5 * time.Millisecond)
		}
		return cmd
	}
	file := filepath.Join(dir, "web-1", "latest", "memory")
	killed := start()
	killed.Process.Kill() // what it leaves, the next one takes away
	killed.Wait()
	cmd := start()
	if readFile(t, file) != readFile(t, g.memory) {
		t.Error("the file differs")
	}
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	cmd.Process.Signal(syscall.SIGTERM)
	time.Sleep(300 * time.Millisecond)
	if _, err := f.ReadAt(make([]byte, 4096), 4<<20); err != nil {
		t.Error("it was taken away under a reader: ", err)
	}
	f.Close()
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Error("it is still mounted: ", entries, err)
	}
}
