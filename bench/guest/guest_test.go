package guest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// testImage returns the image of a flavour, or skips the test where it cannot be had.
func testImage(t *testing.T, flavour Flavour) Image {
	t.Helper()
	image, err := Prepare(testContext(t), "", flavour)
	if why, ok := Excuse(err); ok {
		t.Skip(why)
	}
	if err != nil {
		t.Fatal(err)
	}
	return image
}

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func start(t *testing.T, image Image, opts *Options) *Guest {
	t.Helper()
	g, err := Start(testContext(t), image, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	})
	return g
}

// waitCount waits for the next count and returns it.
func waitCount(t *testing.T, g *Guest) (count int) {
	t.Helper()
	_, err := g.WaitFor(testContext(t), func(line string) bool {
		_, err := fmt.Sscanf(line, "count %d", &count)
		return err == nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return count
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestRestoredGuestGoesOn(t *testing.T) {
	image := testImage(t, Counter)
	ctx := testContext(t)
	dir := t.TempDir()
	state, memory := filepath.Join(dir, "devstate"), filepath.Join(dir, "memory, copied")

	first := start(t, image, nil)
	for waitCount(t, first) < 3 {
	}
	if err := first.SaveDeviceState(ctx, state); !errors.Is(err, ErrRunning) {
		t.Fatalf("saving a running guest: %v", err)
	}
	if err := first.CopyMemory(ctx, memory); !errors.Is(err, ErrRunning) {
		t.Fatalf("copying a running guest: %v", err)
	}
	check(t, first.Pause(ctx))
	last := first.LastCount()
	check(t, first.SaveDeviceState(ctx, state))
	if err := first.SaveDeviceState(ctx, filepath.Join(dir, "again")); err == nil {
		t.Error("a state is saved twice in one pause")
	}
	check(t, first.CopyMemory(ctx, memory))
	if info, err := os.Stat(memory); err != nil || info.Size() != DefaultMemoryBytes {
		t.Fatalf("copied memory: %v, %v", info, err)
	}

	// The saved guest goes on ...
	check(t, first.Resume(ctx))
	for first.LastCount() == last {
		waitCount(t, first)
	}
	check(t, first.Pause(ctx))
	check(t, first.Close())
	if _, err := os.Stat(first.MemoryPath()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a closed guest leaves its memory: %v", err)
	}

	// ... and what was saved of it goes on from where that was, once with its file and once beside it.
	for _, private := range []bool{true, false} {
		again := start(t, image, &Options{MemoryPath: memory, Incoming: state, PrivateMemory: private})
		time.Sleep(300 * time.Millisecond)
		if n := again.LastCount(); n != 0 {
			t.Fatalf("a restored guest counts to %d before it is resumed", n)
		}
		check(t, again.Resume(ctx))
		for want := last + 1; want < last+4; want++ {
			if got := waitCount(t, again); got != want {
				t.Fatalf("counts %d after %d", got, want-1)
			}
		}
		if private {
			check(t, again.Pause(ctx))
			if err := again.SaveDeviceState(ctx, filepath.Join(dir, "again")); !errors.Is(err, errPrivateMemory) {
				t.Errorf("saving a guest with private memory: %v", err)
			}
		}
		check(t, again.Close())
	}
}

func TestPauseStopsBetweenLines(t *testing.T) {
	image := testImage(t, Counter)
	ctx := testContext(t)
	g := start(t, image, nil)
	last := waitCount(t, g)
	for range 30 {
		check(t, g.Pause(ctx))
		if atEnd, err := g.console.lineEnd(ctx); err != nil || !atEnd {
			t.Fatalf("paused within a line (%v)", err)
		}
		check(t, g.Resume(ctx))
		if n := waitCount(t, g); n != last+1 {
			t.Fatalf("counts %d after %d", n, last)
		}
		last++
	}
}

func TestBusyGuestGetsReady(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	image := testImage(t, Busy)
	var log strings.Builder
	g := start(t, image, &Options{MemoryBytes: 1 << 30, Seed: 7, ConsoleLog: &log})
	if _, err := g.WaitFor(testContext(t), func(line string) bool { return line == "ready" }); err != nil {
		t.Fatal(err)
	}
	waitCount(t, g)
	check(t, g.Close())
	for line := range strings.Lines(log.String()) {
		if line = strings.TrimSpace(line); !strings.HasPrefix(line, "count ") && line != "ready" {
			t.Errorf("the guest says %q", line)
		}
	}
}

func TestStartErrors(t *testing.T) {
	image := testImage(t, Counter)
	ctx := testContext(t)
	dir := t.TempDir()
	missing := filepath.Join(dir, "missing")
	broken := filepath.Join(dir, "broken")
	check(t, os.WriteFile(broken, []byte("not a device state"), 0o600))
	memory := filepath.Join(dir, "memory")
	check(t, os.WriteFile(memory, make([]byte, 64<<20), 0o600))

	for name, test := range map[string]struct {
		image Image
		opts  Options
		want  string
	}{
		"no kernel":           {Image{Kernel: missing, Initramfs: image.Initramfs}, Options{}, "qemu ended"},
		"odd size":            {image, Options{MemoryBytes: 12345}, "12345 bytes"},
		"too large":           {image, Options{MemoryBytes: 4 << 30}, "bytes"},
		"memory is missing":   {image, Options{MemoryPath: missing, Incoming: broken}, "no such file"},
		"no memory":           {image, Options{Incoming: broken}, "without the memory"},
		"other size":          {image, Options{MemoryPath: memory, MemoryBytes: 1 << 20, Incoming: broken}, "not 1048576"},
		"state is missing":    {image, Options{MemoryPath: memory, Incoming: missing}, "no such file"},
		"state is not one":    {image, Options{MemoryPath: memory, Incoming: broken}, "qemu"},
		"directory of memory": {image, Options{MemoryPath: filepath.Join(missing, "memory")}, "no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			g, err := Start(ctx, test.image, &test.opts)
			if err == nil {
				g.Close()
				t.Fatal("started")
			}
			if !strings.Contains(err.Error(), test.want) {
				t.Errorf("%q does not say %q", err, test.want)
			}
		})
	}
}

func TestDeadGuest(t *testing.T) {
	g := start(t, testImage(t, Counter), nil)
	waitCount(t, g)
	ctx, cancel := context.WithCancel(testContext(t))
	cancel()
	if _, err := g.WaitFor(ctx, func(string) bool { return false }); !errors.Is(err, context.Canceled) {
		t.Errorf("WaitFor with an ended context: %v", err)
	}
	if err := g.Resume(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Resume with an ended context: %v", err)
	}
	g.process.kill()
	for what, call := range map[string]func() error{
		"Pause":  func() error { return g.Pause(testContext(t)) },
		"Resume": func() error { return g.Resume(testContext(t)) },
		"WaitFor": func() error {
			_, err := g.WaitFor(testContext(t), func(string) bool { return false })
			return err
		},
	} {
		if err := call(); err == nil || !strings.Contains(err.Error(), "qemu ended") {
			t.Errorf("%s on a dead guest: %v", what, err)
		}
	}
}
