package arcstore

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/arcboxlabs/arcstore/bench/crashdisk"
)

// Of the environment: tests of every point, not of some; and what decides which those are.
const (
	longVariable = "ARCSTORE_TEST_LONG"
	seedVariable = "ARCSTORE_TEST_SEED"
)

// strideOf says that one point in so many is tried: in the long form, one in as many as the variable says.
func strideOf(short int) int {
	if n, err := strconv.Atoi(os.Getenv(longVariable)); err == nil && n > 0 {
		return n
	}
	return short
}

// testSeed is another one each time, unless it is given; it is printed when the test fails.
func testSeed(t *testing.T) uint64 {
	seed := uint64(time.Now().UnixNano()) % 1e9
	if s := os.Getenv(seedVariable); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("again with %s=%d", seedVariable, seed)
		}
	})
	return seed
}

// foreignDir is where Badger writes by itself.
const foreignDir = "badger"

// Power is lost at each operation that changes the disk. What comes up
// afterwards keeps every promise, and is as good as any store.
func TestPowerLoss(t *testing.T) {
	seed := testSeed(t)
	r := rand.New(rand.NewPCG(seed, 1))
	const short = 32
	seeds, stride := 4, strideOf(short)
	if stride == short {
		seeds = 1
	}
	root, images := t.TempDir(), t.TempDir()
	d, err := crashdisk.New(root, foreignDir)
	if err != nil {
		t.Fatal(err)
	}
	l := newLifetime(d, filepath.Join(root, "store"))
	defer func() { l.close() }()

	type image struct {
		dir      string
		seed     uint64
		promises *promises
		where    string
	}
	work := make(chan image)
	var workers sync.WaitGroup
	var points, checked, failed atomic.Int64
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			for i := range work {
				if failed.Load() < 5 {
					if err := checkStore(filepath.Join(i.dir, "store"), i.promises); err != nil {
						failed.Add(1)
						t.Errorf("power lost before %s, image %d: %v", i.where, i.seed, err)
					}
					checked.Add(1)
				}
				os.RemoveAll(i.dir)
			}
		})
	}
	var doing atomic.Value
	next := r.IntN(stride)
	d.Hook(func(op crashdisk.Op) error {
		if !op.Kind.Changes() {
			return nil
		}
		if next > 0 {
			next--
			return nil
		}
		next = r.IntN(2*stride - 1) // an even step would meet the same operations of every loop
		points.Add(1)
		for range seeds {
			i := image{seed: r.Uint64(), promises: l.promised(),
				where: fmt.Sprintf("operation %d of %s: %s %s", op.N, doing.Load(), op.Kind, filepath.Base(op.Name))}
			i.dir = filepath.Join(images, strconv.FormatUint(i.seed, 36))
			if err := os.Mkdir(i.dir, 0o700); err != nil {
				return err
			}
			if err := op.Crash(i.dir, i.seed); err != nil {
				return err
			}
			work <- i
		}
		return nil
	})
	start := time.Now()
	for _, s := range script() {
		doing.Store(s.name)
		if err := s.do(context.Background(), l); err != nil {
			t.Errorf("%s: %v", s.name, err)
			break
		}
	}
	if err := l.close(); err != nil {
		t.Error(err)
	}
	close(work)
	workers.Wait()
	t.Logf("power lost at %d of %d operations, %d images, in %v", points.Load(), d.Ops(), checked.Load(), time.Since(start).Round(time.Second))
}
