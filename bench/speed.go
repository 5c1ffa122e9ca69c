package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"github.com/pierrec/lz4/v4"

	"github.com/arcboxlabs/arcstore"
	"github.com/arcboxlabs/arcstore/capture"
	"github.com/arcboxlabs/arcstore/chunker"
)

// times collects a duration in seconds for each round, by name.
type times map[string][]float64

// measure times f.
func (t times) measure(name string, f func() error) error {
	start := time.Now()
	err := f()
	t[name] = append(t[name], time.Since(start).Seconds())
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

func (t times) median(name string) float64 { return median(t[name]) }

// detail returns the medians of some of the times.
func (t times) detail(names ...string) map[string]float64 {
	d := make(map[string]float64)
	for _, name := range names {
		d[name+" (s)"] = t.median(name)
	}
	return d
}

// tool runs a command.
func (b *bench) tool(name string, args ...string) error {
	out, err := exec.CommandContext(b.ctx, name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, out)
	}
	return nil
}

// warm reads files into the page cache.
func warm(names ...string) error {
	buf := make([]byte, 1<<20)
	for _, name := range names {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		for err == nil {
			_, err = f.Read(buf)
		}
		f.Close()
	}
	return nil
}

// newStore makes and opens a store.
func (b *bench) newStore(name, codec string) (*arcstore.Manager, error) {
	dir := filepath.Join(b.dir, name)
	if err := os.RemoveAll(dir); err != nil {
		return nil, err
	}
	if err := arcstore.Init(dir, &arcstore.InitOptions{Compression: codec}); err != nil {
		return nil, err
	}
	return arcstore.Open(b.ctx, dir, nil)
}

// snapshot takes a snapshot of a memory file.
func snapshot(ctx context.Context, m *arcstore.Manager, target, file string, opts *arcstore.CreateOptions) (*arcstore.Snapshot, error) {
	f, err := capture.OpenFile(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return m.CreateVM(ctx, target, &arcstore.VM{Memory: f}, opts)
}

// speed measures creates and restores against lz4 and zstd, and against what the primitives alone need.
func (b *bench) speed() error {
	a1, a2 := b.inputs[0], b.inputs[1]
	changed := filepath.Join(b.dir, "changed")
	dirty, err := dirtyCopy(b, a1, changed, false)
	if err != nil {
		return err
	}
	full := filepath.Join(b.dir, "changed-data")
	dirtyFull, err := dirtyCopy(b, a1, full, true)
	if err != nil {
		return err
	}
	if err := warm(a1, a2, changed, full); err != nil {
		return err
	}
	pages, err := readPages(a1)
	if err != nil {
		return err
	}
	zst := filepath.Join(b.dir, "memory.zst")
	if err := b.tool("zstd", "-1", "-T0", "-q", "-f", a2, "-o", zst); err != nil {
		return err
	}
	t := make(times)
	for range b.rounds {
		if err := b.firstRound(t, a1, pages); err != nil {
			return err
		}
		for _, d := range []struct {
			name, file string
			bitmap     []byte
		}{{"1 % of the pages", changed, dirty}, {"1 % of the pages, none of them zero before", full, dirtyFull}} {
			if err := b.dirtyRound(t, d.name, a1, d.file, d.bitmap); err != nil {
				return err
			}
		}
		if err := b.nextRound(t, a1, a2, zst); err != nil {
			return err
		}
	}
	pages = nil
	runtime.GC()
	b.add(Result{Step: "first", What: "first snapshot / lz4 -1 and sync", Value: t.median("first") / t.median("lz4 -1"),
		Bar: 0.7, AtMost: true, Detail: t.detail("first", "lz4 -1")})
	b.add(Result{Step: "first", What: "rate of the first snapshot / hash once and LZ4 once, all cores", Value: t.median("primitives") / t.median("first"),
		Bar: 0.6, Detail: t.detail("primitives")})
	b.add(Result{Step: "next", What: "next snapshot / zstd -1 -T0 and sync", Value: t.median("next") / t.median("zstd -1 -T0"),
		Bar: 0.4, AtMost: true, Detail: t.detail("next", "zstd -1 -T0")})
	for i, name := range []string{"1 % of the pages", "1 % of the pages, none of them zero before"} {
		r := Result{Step: "dirty", What: name + ": with bitmap / without", Value: t.median(name+", bitmap") / t.median(name+", no bitmap"),
			AtMost: true, Detail: t.detail(name+", bitmap", name+", no bitmap")}
		if i == 0 {
			r.Bar = 0.1
		}
		b.add(r)
	}
	b.add(Result{Step: "restore", What: "restore to a file / zstd -d", Value: t.median("restore") / t.median("zstd -d"),
		Bar: 0.7, AtMost: true, Detail: t.detail("restore", "zstd -d")})
	return nil
}

// firstRound times lz4, a first snapshot, and the primitives that it is made of.
func (b *bench) firstRound(t times, a1 string, pages [][]byte) error {
	compressed := filepath.Join(b.dir, "compressed")
	if err := t.measure("lz4 -1", func() error {
		if err := b.tool("lz4", "-1", "-q", "-f", a1, compressed); err != nil {
			return err
		}
		return b.tool("sync", compressed)
	}); err != nil {
		return err
	}
	m, err := b.newStore("speed", "lz4")
	if err != nil {
		return err
	}
	defer m.Close()
	if err := t.measure("first", func() error { _, err := snapshot(b.ctx, m, "a", a1, nil); return err }); err != nil {
		return err
	}
	return t.measure("primitives", func() error { return primitives(pages) })
}

// dirtyRound times a snapshot of a file that differs a little from a1, with and without
// the bitmap, each in a store that holds a1 alone.
func (b *bench) dirtyRound(t times, name, a1, changed string, bitmap []byte) error {
	for _, how := range []struct {
		name   string
		bitmap []byte
	}{{", no bitmap", nil}, {", bitmap", bitmap}} {
		m, err := b.newStore("speed", "lz4")
		if err != nil {
			return err
		}
		first, err := snapshot(b.ctx, m, "a", a1, nil)
		if err == nil {
			err = t.measure(name+how.name, func() error {
				_, err := snapshot(b.ctx, m, "a", changed, &arcstore.CreateOptions{Parent: first.ID, Dirty: how.bitmap})
				return err
			})
		}
		if err := errors.Join(err, m.Close()); err != nil {
			return err
		}
	}
	return nil
}

// nextRound times zstd, the snapshot after the first one, and the ways back.
func (b *bench) nextRound(t times, a1, a2, zst string) error {
	compressed := filepath.Join(b.dir, "compressed")
	if err := t.measure("zstd -1 -T0", func() error {
		if err := b.tool("zstd", "-1", "-T0", "-q", "-f", a2, "-o", compressed); err != nil {
			return err
		}
		return b.tool("sync", compressed)
	}); err != nil {
		return err
	}
	m, err := b.newStore("speed", "lz4")
	if err != nil {
		return err
	}
	defer m.Close()
	if _, err := snapshot(b.ctx, m, "a", a1, nil); err != nil {
		return err
	}
	var second *arcstore.Snapshot
	if err := t.measure("next", func() (err error) { second, err = snapshot(b.ctx, m, "a", a2, nil); return err }); err != nil {
		return err
	}
	return b.restoreRound(t, m, second.ID, a2, zst)
}

func (b *bench) restoreRound(t times, m *arcstore.Manager, id, want, zst string) error {
	plain := filepath.Join(b.dir, "plain")
	os.Remove(plain)
	if err := t.measure("zstd -d", func() error { return b.tool("zstd", "-d", "-q", "-f", zst, "-o", plain) }); err != nil {
		return err
	}
	os.Remove(plain)
	out := filepath.Join(b.dir, "restored")
	if err := os.RemoveAll(out); err != nil {
		return err
	}
	if err := t.measure("restore", func() error { _, err := m.Restore(b.ctx, id, out, nil); return err }); err != nil {
		return err
	}
	if err := b.tool("cmp", filepath.Join(out, "memory"), want); err != nil {
		return err
	}
	return os.RemoveAll(out)
}

// readPages returns the pages of a file that are not zero.
func readPages(name string) ([][]byte, error) {
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	var pages [][]byte
	for len(data) > 0 {
		n := min(4096, len(data))
		if !chunker.IsZero(data[:n]) {
			pages = append(pages, bytes.Clone(data[:n]))
		}
		data = data[n:]
	}
	return pages, nil
}

// primitives does the least that a first snapshot must: hash every page and
// compress every page, once, on all cores, with the same libraries.
func primitives(pages [][]byte) error {
	workers := runtime.GOMAXPROCS(0)
	const group = 16
	var mu sync.Mutex
	var wg sync.WaitGroup
	var failed error
	next := 0
	for range workers {
		wg.Go(func() {
			var c lz4.CompressorCCompat
			raw := make([]byte, 0, group*4096)
			dst := make([]byte, lz4.CompressBlockBound(group*4096))
			for {
				mu.Lock()
				part := pages[next:min(next+group, len(pages))]
				next += len(part)
				mu.Unlock()
				if len(part) == 0 {
					return
				}
				raw = raw[:0]
				for _, p := range part {
					chunker.Sum(p)
					raw = append(raw, p...)
				}
				if _, err := c.CompressBlock(raw, dst); err != nil {
					mu.Lock()
					failed = err
					mu.Unlock()
					return
				}
			}
		})
	}
	wg.Wait()
	return failed
}

// dirtyCopy copies a memory file, changes 1 % of its pages, and returns the bitmap that says which.
func dirtyCopy(b *bench, from, to string, dataOnly bool) ([]byte, error) {
	if err := b.tool("cp", "--sparse=always", from, to); err != nil {
		return nil, err
	}
	if err := os.Chmod(to, 0o600); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(to, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	return touch(f, info.Size(), 0.01, dataOnly, rand.New(rand.NewPCG(1, 2)))
}

// touch writes a few bytes to part of a memory's pages, chosen at random:
// among all, or among those that hold data already.
func touch(f *os.File, size int64, part float64, dataOnly bool, r *rand.Rand) ([]byte, error) {
	pages := size / 4096
	dirty := make([]byte, (pages+7)/8)
	page := make([]byte, 4096)
	for done := 0; float64(done) < part*float64(pages); {
		i := r.Int64N(pages)
		if dirty[i/8]&(1<<(i%8)) != 0 {
			continue
		}
		if _, err := f.ReadAt(page, i*4096); err != nil {
			return nil, err
		}
		if dataOnly && chunker.IsZero(page) {
			continue
		}
		for range 8 {
			page[r.IntN(4096)] = byte(r.Uint32())
		}
		if _, err := f.WriteAt(page, i*4096); err != nil {
			return nil, err
		}
		dirty[i/8] |= 1 << (i % 8)
		done++
	}
	return dirty, nil
}
