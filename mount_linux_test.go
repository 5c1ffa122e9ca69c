package arcstore_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/arcboxlabs/arcstore"
	"github.com/arcboxlabs/arcstore/bench/guest"
	"github.com/arcboxlabs/arcstore/bench/vmm"
)

// needFUSE skips the test where nothing can be mounted.
func needFUSE(t testing.TB) {
	t.Helper()
	f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err == nil {
		f.Close()
		if os.Getuid() == 0 {
			return
		}
		if _, err = exec.LookPath("fusermount3"); err == nil {
			return
		}
	}
	why := "FUSE cannot be had here: run the tests as root, or install fuse3: " + err.Error()
	if slices.Contains(strings.Split(os.Getenv("ARCSTORE_TEST_REQUIRE"), ","), "fuse") {
		t.Fatal(why)
	}
	t.Skip(why)
}

// mountStore mounts a store until the test ends.
func mountStore(t testing.TB, m *arcstore.Manager, opts *arcstore.MountOptions) (dir string, mounted *arcstore.Mounted) {
	t.Helper()
	needFUSE(t)
	dir = t.TempDir()
	mounted, err := m.Mount(dir, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := mounted.Unmount(); err != nil {
			unix.Unmount(dir, unix.MNT_DETACH)
			t.Error(err)
		}
	})
	return dir, mounted
}

// mapPrivately has another process map a file of the mount, compare all pages, and write to them. This one serves the mount: it must not wait
// for a page of it.
func mapPrivately(t *testing.T, g *lazyGuest, file string, writable bool) {
	t.Helper()
	v := g.start(vmm.Config{Map: file, Writable: writable})
	do(t, v, vmm.Do{Touch: g.pages(1), Threads: 4, Write: true})
	if err := v.Close(); err != nil {
		t.Error(err)
	}
}

func TestMount(t *testing.T) {
	g := newLazyGuest(t, 24<<20+4096, nil)
	ctx := context.Background()
	small, err := g.m.CreateVM(ctx, "team/other", &arcstore.VM{Memory: source{make([]byte, 8192)}, State: map[string]arcstore.Source{"deep/state": source{[]byte("state")}}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	dir, mounted := mountStore(t, g.m, nil)
	memory := filepath.Join(dir, "vm", g.snap.ID, "memory")
	want := mustRead(t, g.memory)
	t.Run("tree", func(t *testing.T) {
		for name, want := range map[string]string{"": "team vm", "vm": g.snap.ID + " latest", "team": "other", "team/other": small.ID + " latest",
			"team/other/latest": "deep memory", "team/other/" + small.ID + "/deep": "state"} {
			entries, err := os.ReadDir(filepath.Join(dir, name))
			var names []string
			for _, e := range entries {
				names = append(names, e.Name())
			}
			if got := strings.Join(names, " "); got != want || err != nil {
				t.Errorf("%s holds %q (%v), want %q", name, got, err, want)
			}
		}
		if b, err := os.ReadFile(filepath.Join(dir, "team/other/latest/deep/state")); string(b) != "state" {
			t.Error(string(b), err)
		}
		later, err := g.m.CreateVM(ctx, "later", &arcstore.VM{Memory: source{want[:4096]}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(1100 * time.Millisecond)
		if b, err := os.ReadFile(filepath.Join(dir, "later/latest/memory")); !bytes.Equal(b, want[:4096]) {
			t.Error(later.ID, err)
		}
	})
	t.Run("bytes", func(t *testing.T) {
		if got := mustRead(t, memory); !bytes.Equal(got, want) {
			t.Error("the file differs")
		}
		mapPrivately(t, g, memory, false)
		if got := mustRead(t, memory); !bytes.Equal(got, want) {
			t.Error("a private mapping changed the file")
		}
	})
	t.Run("holes", func(t *testing.T) {
		f, err := os.Open(memory)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		at, holes := int64(0), 0
		for {
			data, err := unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
			if errors.Is(err, unix.ENXIO) {
				data = int64(len(want))
			} else if err != nil {
				t.Fatal(err)
			}
			if data > at {
				holes++
			}
			if bytes.Count(want[at:data], []byte{0}) != int(data-at) {
				t.Fatalf("%d to %d is called a hole", at, data)
			}
			if data == int64(len(want)) {
				break
			}
			if at, err = unix.Seek(int(f.Fd()), data, unix.SEEK_HOLE); err != nil {
				t.Fatal(err)
			}
			for page := data; page < at; page += 4096 {
				if bytes.Count(want[page:page+4096], []byte{0}) == 4096 {
					t.Fatalf("the page at %d is called data", page)
				}
			}
		}
		if holes < 5 {
			t.Errorf("%d holes", holes)
		}
	})
	t.Run("read-only", func(t *testing.T) {
		if err := os.WriteFile(memory, nil, 0o600); err == nil {
			t.Error("it was written to")
		}
		if err := os.Remove(memory); err == nil {
			t.Error("it was removed")
		}
		f, err := os.OpenFile(memory, os.O_RDWR, 0) // as old QEMUs do
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteAt([]byte("x"), 0); err == nil {
			t.Error("it was written to")
		}
		if b, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err == nil {
			unix.Munmap(b)
			t.Error("it can be mapped for writing")
		}
		mapPrivately(t, g, memory, true)
	})
	t.Run("killed reader", func(t *testing.T) {
		for range 5 {
			cmd := exec.Command("sha256sum", memory)
			if err := cmd.Start(); err != nil {
				t.Skip(err)
			}
			time.Sleep(3 * time.Millisecond)
			cmd.Process.Kill()
			cmd.Wait()
		}
		if got := mustRead(t, memory); !bytes.Equal(got, want) {
			t.Error("the file differs")
		}
	})
	t.Run("busy", func(t *testing.T) {
		f, err := os.Open(memory)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := mounted.Unmount(); !errors.Is(err, arcstore.ErrMountBusy) {
			t.Error(err)
		}
		// It is deleted while it is open.
		if _, err := g.m.Delete(ctx, g.snap.ID); err != nil {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Millisecond)
		if _, err := g.m.GC(ctx, nil); err != nil {
			t.Fatal(err)
		}
		unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
		got := make([]byte, len(want))
		if _, err := f.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
			t.Errorf("what was open cannot be read to its end: %v", err)
		}
	})
	if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
		if _, err := g.m.Mount(dir, nil); err == nil {
			t.Error("it was mounted twice")
		}
	}
}

// What is damaged cannot be read, and the rest can.
func TestMountDamage(t *testing.T) {
	g := newLazyGuest(t, 16<<20, nil)
	g.lazy.Close()
	g.damage()
	var mu sync.Mutex
	var failed []string
	dir, _ := mountStore(t, g.m, &arcstore.MountOptions{Failed: func(path string, err error) {
		mu.Lock()
		defer mu.Unlock()
		failed = append(failed, path)
		if !arcstore.IsCorrupt(err) {
			t.Error(err)
		}
	}})
	want := mustRead(t, g.memory)
	f, err := os.Open(filepath.Join(dir, "vm/latest/memory"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	bad := 0
	for at := int64(0); at < g.size; at += 4096 {
		var b [4096]byte
		if _, err := f.ReadAt(b[:], at); errors.Is(err, unix.EIO) {
			bad++
		} else if err != nil || !bytes.Equal(b[:], want[at:at+4096]) {
			t.Fatalf("the page at %d: %v", at, err)
		}
	}
	if bad == 0 || bad > 1000 || len(failed) == 0 {
		t.Errorf("%d pages cannot be read, told of %d", bad, len(failed))
	}
}

// A QEMU runs on memory that it maps from the mount, and goes on counting; so does a second one beside it.
func TestMountedGuest(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	needFUSE(t)
	dir := t.TempDir()
	memory, state := filepath.Join(dir, "memory"), filepath.Join(dir, "devstate")
	g := bootCounter(ctx, t, &guest.Options{MemoryPath: memory, MemoryBytes: guest.DefaultMemoryBytes})
	counts(ctx, t, g, 3)
	if err := g.Pause(ctx); err != nil {
		t.Fatal(err)
	}
	paused := g.LastCount()
	if err := g.SaveDeviceState(ctx, state); err != nil {
		t.Fatal(err)
	}
	if err := arcstore.Init(filepath.Join(dir, "store"), nil); err != nil {
		t.Fatal(err)
	}
	m, err := arcstore.Open(ctx, filepath.Join(dir, "store"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	s := snapshotFiles(ctx, t, m, memory, state)
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	at, _ := mountStore(t, m, nil)
	files := filepath.Join(at, "counter", s.ID)
	for range 2 {
		g := bootCounter(ctx, t, &guest.Options{MemoryPath: filepath.Join(files, "memory"), PrivateMemory: true, Incoming: filepath.Join(files, "devstate")})
		if err := g.Resume(ctx); err != nil {
			t.Fatal(err)
		}
		if first := counts(ctx, t, g, 3); first != paused+1 {
			t.Errorf("the guest went on with %d, want %d", first, paused+1)
		}
		defer g.Close()
	}
}
