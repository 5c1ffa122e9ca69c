package arcstore_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/arcboxlabs/arcstore"
	"github.com/arcboxlabs/arcstore/bench/processes"
)

// checkpoints is a store with snapshots of one container.
type checkpoints struct {
	dir string
	m   *arcstore.Manager
	ids []string
}

// needProcesses skips the test, or fails it, where an error says that something is missing.
func needProcesses(t *testing.T, err error) {
	t.Helper()
	if why, ok := processes.Excuse(err); ok {
		t.Skip(why)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func newCheckpoints(t *testing.T) *checkpoints {
	t.Helper()
	needProcesses(t, processes.NeedCRIU())
	dir := filepath.Join(t.TempDir(), "store")
	if err := arcstore.Init(dir, nil); err != nil {
		t.Fatal(err)
	}
	m, err := arcstore.Open(t.Context(), dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return &checkpoints{dir: dir, m: m}
}

// take takes a snapshot of a container.
func (c *checkpoints) take(t *testing.T, container arcstore.Container) *arcstore.Snapshot {
	t.Helper()
	s, err := c.m.CreateContainer(t.Context(), "c", &container, nil)
	if err != nil {
		t.Fatal(err)
	}
	c.ids = append(c.ids, s.ID)
	c.nothingStaged(t)
	return s
}

// nothingStaged makes sure that a create left nothing behind.
func (c *checkpoints) nothingStaged(t *testing.T) {
	t.Helper()
	if _, err := os.Stat(filepath.Join(c.dir, "staging")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("CRIU's images are still in the store: %v", err)
	}
}

// keepLast deletes all snapshots but the last, collects garbage and verifies.
func (c *checkpoints) keepLast(t *testing.T) string {
	t.Helper()
	last := len(c.ids) - 1
	if _, err := c.m.Delete(t.Context(), c.ids[:last]...); err != nil {
		t.Fatal(err)
	}
	if _, err := c.m.GC(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	report, err := c.m.Verify(t.Context(), &arcstore.VerifyOptions{Data: true})
	if err != nil || len(report.Damage) > 0 {
		t.Fatalf("verify: %v %v", report, err)
	}
	return c.ids[last]
}

// run brings the last snapshot back to life.
func (c *checkpoints) run(t *testing.T, id string, opts *arcstore.RunOptions) *arcstore.RunReport {
	t.Helper()
	report, err := c.m.Run(t.Context(), id, opts)
	if err != nil {
		t.Fatal(err)
	}
	return report
}

// about returns what a snapshot says that it captured.
func (c *checkpoints) about(t *testing.T, id string) *arcstore.Checkpoint {
	t.Helper()
	r, err := c.m.OpenSnapshot(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	about, err := r.Checkpoint(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return about
}

// bytes returns what the store takes: packs, manifests and the catalogue.
func (c *checkpoints) bytes(t *testing.T) int64 {
	t.Helper()
	s, err := c.m.Stats(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s.PackBytes + s.ManifestBytes + s.CatalogueBytes
}

// A Python process with 100 MB of live objects and a counter is captured
// three times while it works, and goes on from the third.
func TestCheckpointObjects(t *testing.T) {
	c := newCheckpoints(t)
	ctx := t.Context()
	const megabytes, changed = 100, 1280 // of 25,600 objects of 4 KiB: 5 %, of the pages, too
	p, err := processes.Objects(ctx, t.TempDir(), megabytes)
	needProcesses(t, err)
	defer p.Stop()

	var sizes []int64
	for i := range 3 {
		if i > 0 {
			if err := p.Change(ctx, changed); err != nil {
				t.Fatal(err)
			}
		}
		before := c.bytes(t)
		s := c.take(t, arcstore.Container{PID: p.PID, LeaveRunning: i < 2})
		sizes = append(sizes, c.bytes(t)-before)
		t.Logf("snapshot %d: %d bytes, %d of them new; the store grew by %d", i+1, s.Size, s.Cost.BytesNew, sizes[i])
		if i > 0 && sizes[i] > sizes[0]/10 {
			t.Errorf("snapshot %d took %d bytes, the first %d: more than a tenth, for 5 %% of the pages", i+1, sizes[i], sizes[0])
		}
		if i < 2 {
			if err := p.GoesOn(ctx); err != nil {
				t.Fatal(err)
			}
		}
	}
	stopped, err := p.Count()
	if err != nil {
		t.Fatal(err)
	}
	id := c.keepLast(t)
	pidFile := filepath.Join(t.TempDir(), "pid")
	report := c.run(t, id, &arcstore.RunOptions{PIDFile: pidFile, Cgroup: "arcstore-test"})
	if text, err := os.ReadFile(pidFile); err != nil || string(text) != strconv.Itoa(p.PID) || report.PID != p.PID {
		t.Errorf("restored with PID %d, %q in its file, %v; want %d", report.PID, text, err, p.PID)
	}
	if text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", p.PID)); err != nil || !strings.Contains(string(text), "/arcstore-test\n") {
		t.Errorf("its cgroups: %s %v", text, err)
	}
	if err := p.GoesOn(ctx); err != nil {
		t.Fatal(err)
	}
	if n, err := p.Count(); err != nil || n < stopped {
		t.Errorf("it counts from %d on, after %d: %v", n, stopped, err)
	}
	if err := p.Check(ctx, 2*changed); err != nil {
		t.Error(err)
	}
	about := c.about(t, id)
	if len(about.Processes) != 1 || about.Processes[0].Name != "python3" || about.Processes[0].PID != p.PID || about.Processes[0].Memory < megabytes<<20 {
		t.Errorf("captured processes: %+v", about.Processes)
	}
}

// Three processes that are connected by pipes go on without losing what was in them.
func TestCheckpointPipes(t *testing.T) {
	c := newCheckpoints(t)
	ctx := t.Context()
	p, err := processes.Pipes(ctx, t.TempDir())
	needProcesses(t, err)
	defer p.Stop()
	for i := range 3 {
		c.take(t, arcstore.Container{PID: p.PID, LeaveRunning: i < 2})
		if i < 2 {
			if err := p.GoesOn(ctx); err != nil {
				t.Fatal(err)
			}
		}
	}
	stopped, err := p.Count()
	if err != nil {
		t.Fatal(err)
	}
	id := c.keepLast(t)
	about := c.about(t, id)
	pipes := 0
	for _, f := range about.Files {
		if f.Type == "pipe" {
			pipes++
		}
	}
	if len(about.Processes) != 3 || about.Processes[0].PID != p.PID || pipes == 0 {
		t.Errorf("captured %+v", about)
	}
	for _, q := range about.Processes[1:] {
		if q.Parent != p.PID {
			t.Errorf("process %d has the parent %d, not %d", q.PID, q.Parent, p.PID)
		}
	}
	c.run(t, id, nil)
	for range 3 {
		if err := p.GoesOn(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := p.Count(); err != nil || n <= stopped || n%3 != 0 {
		t.Errorf("the number is %d, after %d: %v", n, stopped, err)
	}
}

// A client stays connected to redis over a checkpoint, its death and its restore.
func TestCheckpointRedis(t *testing.T) {
	c := newCheckpoints(t)
	ctx := t.Context()
	p, client, err := processes.Redis(ctx, t.TempDir())
	needProcesses(t, err)
	defer p.Stop()
	defer client.Close()
	do := func(args ...string) string {
		t.Helper()
		answer, err := client.Do(args...)
		if err != nil {
			t.Fatal(err)
		}
		return answer
	}
	const keys = 5000
	for i := range keys {
		do("SET", fmt.Sprint("key ", i), strings.Repeat(fmt.Sprint("value ", i, " "), 10))
	}
	counted := 0
	for i := range 3 {
		for range 100 {
			do("INCR", "counter")
			counted++
		}
		c.take(t, arcstore.Container{PID: p.PID, LeaveRunning: i < 2, Options: arcstore.CheckpointOptions{TCPEstablished: true}})
	}
	id := c.keepLast(t)
	about := c.about(t, id)
	states := make(map[string]int)
	for _, s := range about.Sockets {
		states[s.State]++
	}
	if states["listen"] == 0 || states["established"] == 0 {
		t.Errorf("captured sockets: %+v", about.Sockets)
	}
	c.run(t, id, nil)
	if got := do("INCR", "counter"); got != strconv.Itoa(counted+1) {
		t.Errorf("INCR gives %s after the restore, want %d", got, counted+1)
	}
	for i := range keys {
		if got, want := do("GET", fmt.Sprint("key ", i)), strings.Repeat(fmt.Sprint("value ", i, " "), 10); got != want {
			t.Fatalf("key %d is %q, want %q", i, got, want)
		}
	}
}

// A container of runc's comes back as another one.
func TestCheckpointRunc(t *testing.T) {
	c := newCheckpoints(t)
	ctx := t.Context()
	r, err := processes.Runc(ctx, t.TempDir(), "arcstore-test-one")
	needProcesses(t, err)
	defer r.Delete(r.ID)
	for i := range 3 {
		c.take(t, arcstore.Container{Runc: r.ID, RuncRoot: r.Root, LeaveRunning: i < 2})
		if i < 2 {
			if err := r.GoesOn(ctx); err != nil {
				t.Fatal(err)
			}
		}
	}
	stopped, err := r.Count()
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(50 * time.Millisecond)
	if n, err := r.Count(); err != nil || n != stopped {
		t.Errorf("it counts on after its last checkpoint: %d, %d, %v", stopped, n, err)
	}
	id := c.keepLast(t)
	if about := c.about(t, id); about.Engine != "runc" || about.Name != r.ID || len(about.Processes) == 0 || about.Processes[0].Name != "sh" {
		t.Errorf("captured %+v", about)
	}
	const other = "arcstore-test-two"
	defer r.Delete(other)
	c.run(t, id, &arcstore.RunOptions{Runc: other, RuncRoot: r.Root, Bundle: r.Bundle})
	if err := r.GoesOn(ctx); err != nil {
		t.Fatal(err)
	}
	if n, err := r.Count(); err != nil || n < stopped {
		t.Errorf("it counts from %d on, after %d: %v", n, stopped, err)
	}
}

// thread returns a thread of this process that is not its first.
func thread(t *testing.T) int {
	t.Helper()
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range threads {
		if id, err := strconv.Atoi(e.Name()); err == nil && id != os.Getpid() {
			return id
		}
	}
	t.Fatal("this process has one thread alone")
	return 0
}

// Whatever goes wrong, the processes run on, and nothing is left behind.
func TestCheckpointFails(t *testing.T) {
	c := newCheckpoints(t)
	p, err := processes.Objects(t.Context(), t.TempDir(), 8)
	needProcesses(t, err)
	defer p.Stop()
	tree, err := processes.Pipes(t.Context(), t.TempDir())
	needProcesses(t, err)
	defer tree.Stop()
	var child int
	if text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", tree.PID)); err != nil {
		t.Fatal(err)
	} else if _, err := fmt.Sscan(string(text), &child); err != nil {
		t.Fatal(err)
	}
	ended := func(at string) context.Context {
		ctx, cancel := context.WithCancel(t.Context())
		if at == "" {
			cancel()
		}
		t.Cleanup(cancel)
		return ctx
	}
	for _, test := range []struct {
		what string
		ctx  context.Context
		c    arcstore.Container
		want error
		text string
	}{
		{"an interruption", ended(""), arcstore.Container{PID: p.PID}, context.Canceled, ""},
		{"no process", t.Context(), arcstore.Container{PID: 1 << 22}, arcstore.ErrNoProcess, "there is no process 4194304"},
		{"this process", t.Context(), arcstore.Container{PID: os.Getpid()}, arcstore.ErrInvalid, "has this program in it"},
		{"its parent", t.Context(), arcstore.Container{PID: os.Getppid()}, arcstore.ErrInvalid, "has this program in it"},
		{"a thread", t.Context(), arcstore.Container{PID: thread(t)}, arcstore.ErrInvalid, fmt.Sprintf("is a thread of process %d: give that ID", os.Getpid())},
		{"a child", t.Context(), arcstore.Container{PID: child}, arcstore.ErrInvalid, fmt.Sprintf("is not the root of its tree, which is process %d: give that ID", tree.PID)},
		{"a kernel thread", t.Context(), arcstore.Container{PID: 2}, arcstore.ErrNoProcess, "thread of the kernel"},
		{"nothing", t.Context(), arcstore.Container{}, arcstore.ErrInvalid, ""},
		{"too much", t.Context(), arcstore.Container{PID: p.PID, Images: "/tmp"}, arcstore.ErrInvalid, ""},
		{"an unknown container", t.Context(), arcstore.Container{Runc: "arcstore-test-none"}, arcstore.ErrNoProcess, "does not exist"},
	} {
		_, err := c.m.CreateContainer(test.ctx, "c", &test.c, nil)
		if !errors.Is(err, test.want) || !strings.Contains(fmt.Sprint(err), test.text) {
			t.Errorf("%s: %v, want %v (%s)", test.what, err, test.want, test.text)
		}
		c.nothingStaged(t)
	}
	if err := p.GoesOn(t.Context()); err != nil {
		t.Error(err)
	}
	if all, err := c.m.List(t.Context(), ""); err != nil || len(all) > 0 {
		t.Errorf("snapshots: %v %v", all, err)
	}

	// What lives cannot be restored beside itself.
	c.take(t, arcstore.Container{PID: p.PID, LeaveRunning: true})
	if _, err := c.m.Run(t.Context(), c.ids[0], nil); err == nil || !strings.Contains(err.Error(), "is in use") {
		t.Errorf("a restore of what still runs: %v", err)
	}
	if err := p.GoesOn(t.Context()); err != nil {
		t.Error(err)
	}
}

// On a disk that is full before CRIU is done, or before the store is, the
// process runs on, and a snapshot can be taken once there is room.
func TestCheckpointFullDisk(t *testing.T) {
	c := newCheckpoints(t)
	p, err := processes.Objects(t.Context(), t.TempDir(), 16)
	needProcesses(t, err)
	defer p.Stop()
	s := c.take(t, arcstore.Container{PID: p.PID, LeaveRunning: true})
	for _, test := range []struct {
		what string
		size int64
	}{
		{"CRIU's images", s.Size / 2},
		{"the store's packs", s.Size + s.Cost.BytesStored/2},
	} {
		dir := t.TempDir()
		remount := func(size int64, flags uintptr) {
			t.Helper()
			if err := unix.Mount("tmpfs", dir, "tmpfs", flags, fmt.Sprintf("size=%d", size)); err != nil {
				t.Fatal(err)
			}
		}
		remount(test.size, 0)
		defer unix.Unmount(dir, unix.MNT_DETACH)
		full := &checkpoints{dir: filepath.Join(dir, "store")}
		if err := arcstore.Init(full.dir, nil); err != nil {
			t.Fatal(err)
		}
		if full.m, err = arcstore.Open(t.Context(), full.dir, nil); err != nil {
			t.Fatal(err)
		}
		_, err := full.m.CreateContainer(t.Context(), "c", &arcstore.Container{PID: p.PID}, nil)
		if !errors.Is(err, unix.ENOSPC) {
			t.Errorf("no room for %s: %v", test.what, err)
		}
		full.nothingStaged(t)
		if all, err := full.m.List(t.Context(), ""); err != nil || len(all) > 0 {
			t.Errorf("no room for %s: snapshots %v %v", test.what, all, err)
		}
		if err := p.GoesOn(t.Context()); err != nil {
			t.Fatalf("no room for %s: %v", test.what, err)
		}
		remount(8*s.Size, unix.MS_REMOUNT)
		full.take(t, arcstore.Container{PID: p.PID, LeaveRunning: true})
		if err := full.m.Close(); err != nil {
			t.Error(err)
		}
	}
}
