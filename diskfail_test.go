package arcstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/arcboxlabs/arcstore/bench/crashdisk"
)

// failure is what goes wrong in one step.
type failure struct {
	before *lifetime // in the state that the step begins in
	step   step
	at     int // operation
	errno  syscall.Errno
	on     bool // from there on, everything that needs room fails, not just that one operation
	seed   uint64
}

func (f *failure) String() string {
	times := "once"
	if f.on {
		times = "and from there on"
	}
	return fmt.Sprintf("%v at operation %d of %s, %s", f.errno, f.at, f.step.name, times)
}

// hook fails what is to fail, and says what it was.
func (f *failure) hook(first int, hit *string) func(crashdisk.Op) error {
	return func(op crashdisk.Op) error {
		n := op.N - first
		if n == f.at || f.on && n > f.at && op.Kind.NeedsRoom() {
			if *hit == "" {
				*hit = fmt.Sprintf("%s %s", op.Kind, filepath.Base(op.Name))
			}
			return f.errno
		}
		return nil
	}
}

// run has the step fail, and then goes on: with the same Manager, after a loss of power, with another Manager.
func (f *failure) run(tmp string) error {
	ctx := context.Background()
	root, image := filepath.Join(tmp, "root"), filepath.Join(tmp, "image")
	defer os.RemoveAll(tmp)
	if err := errors.Join(os.MkdirAll(image, 0o700), os.CopyFS(root, os.DirFS(filepath.Dir(f.before.dir)))); err != nil {
		return err
	}
	d, err := crashdisk.New(root, foreignDir)
	if err != nil {
		return err
	}
	l := f.before.continueOn(d, filepath.Join(root, "store"))
	defer func() { l.close() }()
	if l.promises.initialized && f.step.name != "open" {
		if err := l.open(ctx); err != nil {
			return fmt.Errorf("open before anything fails: %w", err)
		}
	}
	l.full = f.on
	hit := ""
	d.Hook(f.hook(d.Ops(), &hit))
	err = f.step.do(ctx, l)
	if err != nil {
		if f.on && l.m != nil {
			if gcErr := l.gc(ctx); gcErr != nil {
				return fmt.Errorf("%s: gc on the full disk: %w", hit, gcErr)
			}
		}
		d.Hook(nil)
		if why := badError(err, f.errno); why != "" {
			return fmt.Errorf("%s: the error %s: %w", hit, why, err)
		}
		if err := f.step.do(ctx, l); err != nil {
			return fmt.Errorf("%s: the same call again: %w", hit, err)
		}
	}
	d.Hook(nil)
	if l.m == nil {
		if err := l.open(ctx); err != nil {
			return fmt.Errorf("%s: open: %w", hit, err)
		}
	}
	if _, err := checkPromises(l.m, l.promised()); err != nil {
		return fmt.Errorf("%s: %w", hit, err)
	}
	if err := d.Crash(image, f.seed); err != nil {
		return err
	}
	if err := checkStore(filepath.Join(image, "store"), l.promised()); err != nil {
		return fmt.Errorf("%s: after a loss of power (%d): %w", hit, f.seed, err)
	}
	if err := l.close(); err != nil {
		return fmt.Errorf("%s: close: %w", hit, err)
	}
	if err := checkStore(l.dir, l.promised()); err != nil {
		return fmt.Errorf("%s: opened again: %w", hit, err)
	}
	return nil
}

// badError says what is wrong with an error for a failure of the disk; "" for nothing.
func badError(err error, errno syscall.Errno) string {
	switch {
	case !errors.Is(err, errno) && !(IsCorrupt(err) && strings.Contains(err.Error(), errno.Error())): // a sector that cannot be read is damage
		return "does not say what the disk says"
	case !slices.ContainsFunc([]string{"store: ", "manifest: ", "arcstore: ", "restore: ", "capture: "}, func(p string) bool { return strings.HasPrefix(err.Error(), p) }):
		return "does not say where it is from"
	case strings.Count(err.Error(), ": ") < 2:
		return "does not say what was being done"
	}
	return ""
}

// Each operation of the script fails once, and then each after which the disk is full.
func TestDiskFailures(t *testing.T) {
	ctx := context.Background()
	seed := testSeed(t)
	r := rand.New(rand.NewPCG(seed, 2))
	stride := strideOf(600)
	// Most operations list one of the 256 directories of packs.
	listings := 16
	work := make(chan *failure)
	var workers sync.WaitGroup
	var tried, failed atomic.Int64
	scratch := t.TempDir()
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			for f := range work {
				n := tried.Add(1)
				if failed.Load() >= 10 {
					continue
				}
				if err := f.run(filepath.Join(scratch, fmt.Sprint("try", n))); err != nil {
					failed.Add(1)
					t.Errorf("%v: %v", f, err)
				}
			}
		})
	}
	start := time.Now()
	root := t.TempDir()
	d, err := crashdisk.New(root, foreignDir)
	if err != nil {
		t.Fatal(err)
	}
	l := newLifetime(d, filepath.Join(root, "store"))
	for i, s := range script() {
		// The manager is closed and opened between the steps: what is copied is at rest.
		if err := l.close(); err != nil {
			t.Fatal(err)
		}
		before := l.continueOn(nil, filepath.Join(scratch, fmt.Sprint("before", i), "store"))
		if err := os.CopyFS(filepath.Dir(before.dir), os.DirFS(root)); err != nil {
			t.Fatal(err)
		}
		if l.promised().initialized && s.name != "open" {
			if err := l.open(ctx); err != nil {
				t.Fatal(err)
			}
		}

		var kinds []crashdisk.Kind
		d.Hook(func(op crashdisk.Op) error {
			kinds = append(kinds, op.Kind)
			return nil
		})
		if err := s.do(ctx, l); err != nil {
			t.Fatalf("%s: %v", s.name, err)
		}
		d.Hook(nil)
		for at, kind := range kinds {
			try := func(errno syscall.Errno, on bool) {
				if r.IntN(stride) == 0 && (kind != crashdisk.ReadDir || r.IntN(listings) == 0) {
					work <- &failure{before: before, step: s, at: at + 1, errno: errno, on: on, seed: r.Uint64()}
				}
			}
			try(syscall.EIO, false)
			if kind.NeedsRoom() {
				try(syscall.ENOSPC, false)
				try(syscall.ENOSPC, true)
			}
		}
	}
	close(work)
	workers.Wait()
	l.close()
	t.Logf("%d failures in %v", tried.Load(), time.Since(start).Round(time.Second))
}

// Each read of a restore and of a verification fails once: an error, never wrong bytes.
func TestReadFailures(t *testing.T) {
	ctx := context.Background()
	seed := testSeed(t)
	r := rand.New(rand.NewPCG(seed, 3))
	root := t.TempDir()
	d, err := crashdisk.New(root, foreignDir)
	if err != nil {
		t.Fatal(err)
	}
	l := newLifetime(d, filepath.Join(root, "store"))
	defer func() { l.close() }()
	for _, s := range script() {
		if err := s.do(ctx, l); err != nil {
			t.Fatalf("%s: %v", s.name, err)
		}
	}
	stride := strideOf(20)
	tried := 0
	calls := map[string]func() error{
		"verify": func() error {
			v, err := l.m.Verify(ctx, &VerifyOptions{Data: true})
			if err == nil && len(v.Damage) > 0 {
				err = fmt.Errorf("arcstore: damage: %w", syscall.EIO)
			}
			return err
		},
		"stats": func() error { _, err := l.m.Stats(ctx); return err },
	}
	for id, want := range l.promised().memories {
		calls["restore "+id] = func() error {
			var out bytes.Buffer
			_, err := l.m.RestoreStream(ctx, id, "memory", &out, nil)
			if !bytes.HasPrefix(want, out.Bytes()) {
				t.Errorf("restore %s: wrong bytes", id)
			}
			if err == nil && out.Len() != len(want) {
				t.Errorf("restore %s: %d bytes of %d", id, out.Len(), len(want))
			}
			return err
		}
		dir := filepath.Join(t.TempDir(), "out")
		calls["restore to files "+id] = func() error {
			_, err := l.m.Restore(ctx, id, dir, &RestoreOptions{Force: true})
			got, rerr := os.ReadFile(filepath.Join(dir, "memory"))
			if rerr == nil && err == nil && !bytes.Equal(got, want) {
				t.Errorf("restore %s to files: wrong bytes", id)
			}
			return err
		}
	}
	for name, call := range calls {
		for at := 1 + r.IntN(stride); ; at += 1 + r.IntN(2*stride-1) {
			first, hit := d.Ops(), ""
			d.Hook(func(op crashdisk.Op) error {
				if op.N == first+at {
					hit = string(op.Kind)
					return syscall.EIO
				}
				return nil
			})
			err := call()
			d.Hook(nil)
			if hit == "" {
				if err != nil {
					t.Errorf("%s without a failure: %v", name, err)
				}
				break
			}
			tried++
			// Without an error the bytes were right: they were read again, or elsewhere.
			if why := badError(err, syscall.EIO); err != nil && why != "" {
				t.Errorf("%s: operation %d (%s) fails: the error %s: %v", name, at, hit, why, err)
			}
			if err := call(); err != nil {
				t.Errorf("%s: operation %d (%s) failed, and now: %v", name, at, hit, err)
			}
			if t.Failed() && tried > 200 {
				return
			}
		}
	}
	t.Logf("%d failures", tried)
}
