package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"github.com/zeebo/blake3"

	"github.com/arcboxlabs/arcstore"
	"github.com/arcboxlabs/arcstore/capture"
	"github.com/arcboxlabs/arcstore/manifest"
)

const (
	demoTarget  = "demo"
	demoMinSize = 16 << 20
	demoMaxSize = 64 << 30
)

type demoOptions struct {
	size sizeFlag
	keep bool
}

func newDemoCommand(a *app) *cobra.Command {
	opt := demoOptions{size: 256 << 20}
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Snapshot a real process's memory, and restore and compare it",
		Long: `Demo does the main job once, on this machine and in a store of its own: it starts
a process that keeps memory busy, takes a first and two incremental snapshots of that memory,
deletes the oldest, collects garbage, verifies, restores, and compares byte for byte with the
memory of the process, which waits meanwhile. It needs nothing but this program.`,
		Example: `  arcstore demo
  arcstore demo --size 1GiB --keep`,
		Args:              takes(0, 0, "no arguments"),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runDemo(cmd.Context(), a, opt)
		},
	}
	cmd.Flags().Var(&opt.size, "size", "memory that the process keeps busy")
	cmd.Flags().BoolVar(&opt.keep, "keep", false, "leave the store and the restored memory where they are")
	must(cmd.RegisterFlagCompletionFunc("size", cobra.FixedCompletions([]cobra.Completion{"64MiB", "256MiB", "1GiB"}, cobra.ShellCompDirectiveNoFileComp)))
	return exits(cmd, exitFailed, exitUsage, exitDamage, exitInterrupted)
}

func runDemo(ctx context.Context, a *app, opt demoOptions) (err error) {
	if opt.size < demoMinSize || opt.size > demoMaxSize || opt.size%dirtyPage != 0 {
		return usagef("--size is from 16MiB to 64GiB in steps of 4KiB")
	}
	dir, err := os.MkdirTemp("", "arcstore-demo-")
	if err != nil {
		return err
	}
	d := &demo{app: a, dir: dir, size: int64(opt.size), report: demoReport{Size: int64(opt.size), Steps: []demoStep{}}}
	if opt.keep {
		d.report.Dir = dir
	} else {
		defer func() {
			if rerr := os.RemoveAll(dir); err == nil {
				err = rerr
			}
		}()
	}
	if !a.json {
		d.printLine("STEP", "SCANNED", "NEW", "STORED", "TOOK", "")
	}
	if err := d.run(ctx); err != nil {
		return err
	}
	d.report.Equal = true
	return a.result(d.report, d.printEnd)
}

type demo struct {
	app    *app
	dir    string
	size   int64
	report demoReport
	guest  *demoGuest
	m      *arcstore.Manager
	taken  []demoSnapshot
}

// demoSnapshot is a snapshot and what its memory has to be.
type demoSnapshot struct {
	id  string
	sum [32]byte
}

// step runs one step and prints its line; what leaves the sizes as they are has none.
func (d *demo) step(name string, run func(*demoStep) error) error {
	s := demoStep{Name: name, Scanned: -1, New: -1, Stored: -1}
	start := time.Now()
	if err := run(&s); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if s.Took == 0 {
		s.Took = time.Since(start)
	}
	d.report.Steps = append(d.report.Steps, s)
	if !d.app.json {
		d.printStep(s)
	}
	return nil
}

func (d *demo) run(ctx context.Context) (err error) {
	defer func() {
		if d.m != nil {
			err = errors.Join(err, d.m.Close())
		}
		if d.guest != nil {
			d.guest.close()
		}
	}()
	err = d.step("start a busy process", func(s *demoStep) error {
		var err error
		if d.guest, err = startDemoGuest(ctx, filepath.Join(d.dir, "guest-memory"), d.size); err != nil {
			return err
		}
		d.report.Source = d.guest.what
		s.Remark = d.guest.what
		return nil
	})
	if err != nil {
		return err
	}
	storeDir := filepath.Join(d.dir, "store")
	if err := arcstore.Init(storeDir, nil); err != nil {
		return err
	}
	if d.m, err = arcstore.Open(ctx, storeDir, &arcstore.Options{Holder: "arcstore demo"}); err != nil {
		return err
	}
	for _, name := range []string{"first snapshot", "second snapshot", "third snapshot"} {
		if err := d.snapshot(ctx, name); err != nil {
			return err
		}
	}
	// The process goes on waiting: its memory is what the last snapshot has to give back.
	for _, part := range []func(context.Context) error{d.collect, d.verify, d.restoreLast, d.restoreOlder, d.measure} {
		if err := part(ctx); err != nil {
			return err
		}
	}
	return nil
}

// snapshot lets the process work, and takes a snapshot of its memory.
func (d *demo) snapshot(ctx context.Context, name string) error {
	return d.step(name, func(s *demoStep) error {
		if err := d.guest.work(); err != nil {
			return err
		}
		sum, err := d.sum()
		if err != nil {
			return err
		}
		start := time.Now()
		e, err := d.m.CreateVM(ctx, demoTarget, &arcstore.VM{Memory: d.guest.memory}, &arcstore.CreateOptions{Name: name})
		if err != nil {
			return err
		}
		s.Took = time.Since(start)
		s.Scanned, s.New, s.Stored = e.Cost.BytesScanned, e.Cost.BytesNew, e.Cost.BytesStored
		if e.Parent != "" {
			s.Remark = "incremental"
		}
		d.taken = append(d.taken, demoSnapshot{e.ID, sum})
		return nil
	})
}

// sum hashes the process's memory, independently of the store.
func (d *demo) sum() (sum [32]byte, err error) {
	h := blake3.New()
	buf := make([]byte, 1<<20)
	for off := int64(0); off < d.size; off += int64(len(buf)) {
		part := buf[:min(int64(len(buf)), d.size-off)]
		if n, err := d.guest.memory.ReadAt(part, off); n < len(part) {
			return sum, fmt.Errorf("read memory at %d: %w", off, err)
		}
		if _, err := h.Write(part); err != nil {
			return sum, err
		}
	}
	h.Sum(sum[:0])
	return sum, nil
}

func (d *demo) collect(ctx context.Context) error {
	err := d.step("delete the first", func(*demoStep) error {
		_, err := d.m.Delete(ctx, d.taken[0].id)
		return err
	})
	if err != nil {
		return err
	}
	return d.step("collect garbage", func(s *demoStep) error {
		r, err := d.m.GC(ctx, nil)
		if err != nil {
			return err
		}
		s.Remark = "freed " + size(r.BytesFreed)
		return nil
	})
}

func (d *demo) verify(ctx context.Context) error {
	return d.step("verify all data", func(s *demoStep) error {
		r, err := d.m.Verify(ctx, &arcstore.VerifyOptions{Data: true})
		if err != nil {
			return err
		}
		if len(r.Damage) > 0 {
			return fmt.Errorf("%w: %s: %s", errDamage, r.Damage[0].What, r.Damage[0].Why)
		}
		s.Scanned = r.BytesRead
		s.Remark = plural(r.Chunks, "chunk", "chunks")
		return nil
	})
}

// restoreLast restores the last snapshot to a file and compares it with the process.
func (d *demo) restoreLast(ctx context.Context) error {
	out := filepath.Join(d.dir, "restored")
	err := d.step("restore the third to a file", func(s *demoStep) error {
		r, err := d.m.Restore(ctx, d.taken[2].id, out, nil)
		if err != nil {
			return err
		}
		s.Remark = size(r.BytesData) + " written, the rest are holes"
		return nil
	})
	if err != nil {
		return err
	}
	return d.step("compare with the process", func(s *demoStep) error {
		f, err := capture.OpenFile(filepath.Join(out, manifest.MemoryStream))
		if err != nil {
			return err
		}
		defer f.Close()
		if err := sameBytes(ctx, f, d.guest.memory); err != nil {
			return err
		}
		s.Scanned = f.Size()
		s.Remark = "equal, byte for byte"
		return nil
	})
}

// restoreOlder restores the snapshot whose parent is gone, and compares its hash.
func (d *demo) restoreOlder(ctx context.Context) error {
	return d.step("restore and hash the second", func(s *demoStep) error {
		h := blake3.New()
		r, err := d.m.RestoreStream(ctx, d.taken[1].id, manifest.MemoryStream, h, nil)
		if err != nil {
			return err
		}
		var sum [32]byte
		h.Sum(sum[:0])
		if sum != d.taken[1].sum {
			return fmt.Errorf("%w: its BLAKE3 is %s, the memory's was %s", errDiffers, hex.EncodeToString(sum[:]), hex.EncodeToString(d.taken[1].sum[:]))
		}
		s.Scanned = r.Bytes
		s.Remark = "equal, though its parent is gone"
		return nil
	})
}

// measure sums up what the store has become.
func (d *demo) measure(ctx context.Context) error {
	s, err := d.m.Stats(ctx)
	if err != nil {
		return err
	}
	d.report.Logical = s.Logical
	d.report.OnDisk = s.PackBytes + s.ManifestBytes + s.IndexBytes + s.CatalogueBytes
	return nil
}

// sameBytes compares two sources of one size and says where they differ.
func sameBytes(ctx context.Context, got, want arcstore.Source) error {
	if got.Size() != want.Size() {
		return fmt.Errorf("%w: it has %d bytes instead of %d", errDiffers, got.Size(), want.Size())
	}
	const block = 1 << 20
	a, b := make([]byte, block), make([]byte, block)
	first, pages := int64(-1), 0
	for off := int64(0); off < got.Size(); off += block {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := min(block, got.Size()-off)
		for _, r := range []struct {
			src arcstore.Source
			buf []byte
		}{{got, a[:n]}, {want, b[:n]}} {
			if m, err := r.src.ReadAt(r.buf, off); m < len(r.buf) {
				return fmt.Errorf("read at %d: %w", off, err)
			}
		}
		for p := int64(0); p < n; p += dirtyPage {
			end := min(p+dirtyPage, n)
			if !bytes.Equal(a[p:end], b[p:end]) {
				if pages++; first < 0 {
					first = off + p
				}
			}
		}
	}
	if pages > 0 {
		return fmt.Errorf("%w in %s of 4 KiB, first at byte %d", errDiffers, plural(pages, "page", "pages"), first)
	}
	return nil
}
