package main

import (
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/arcboxlabs/arcstore"
)

// counted is a memory of pages that are all different and compress to next to
// nothing: chunks for a large store, at a small price.
type counted struct {
	first uint64
	pages int64
}

func (c counted) Size() int64 { return c.pages * 4096 }

// ReadAt is called with whole pages.
func (c counted) ReadAt(p []byte, off int64) (int, error) {
	if off%4096 != 0 || len(p)%4096 != 0 {
		return 0, io.ErrUnexpectedEOF
	}
	clear(p)
	for i := 0; i < len(p); i += 4096 {
		binary.LittleEndian.PutUint64(p[i:], c.first+uint64(off+int64(i))/4096+1)
	}
	return len(p), nil
}

// scale measures how a store of many chunks opens and takes snapshots, against an empty one.
func (b *bench) scale() error {
	m, err := b.newStore("scale", "lz4")
	if err != nil {
		return err
	}
	const part = 1_000_000
	start := time.Now()
	for done := int64(0); done < b.chunks; done += part {
		vm := &arcstore.VM{Memory: counted{uint64(done), min(part, b.chunks-done)}}
		if _, err := m.CreateVM(b.ctx, fmt.Sprintf("filler-%d", done/part), vm, nil); err != nil {
			m.Close()
			return err
		}
		fmt.Fprintf(os.Stderr, "bench: scale: %d chunks after %.0fs\n", done+part, time.Since(start).Seconds())
	}
	if err := m.Close(); err != nil {
		return err
	}
	dir := filepath.Join(b.dir, "scale")
	runtime.GC()
	t := make(times)
	for range b.rounds {
		if err := b.scaleRound(t, dir); err != nil {
			return err
		}
	}
	stat, err := diskUsage(filepath.Join(dir, "index"))
	if err != nil {
		return err
	}
	peak, err := b.peak("create", dir, b.inputs[1])
	if err != nil {
		return err
	}
	b.add(Result{Step: "scale", What: fmt.Sprintf("opening a store of %d chunks (s)", b.chunks), Value: t.median("open"), Bar: 1, AtMost: true,
		Detail: map[string]float64{"index (bytes)": float64(stat), "peak memory of a create (MiB)": peak / (1 << 20)}})
	b.add(Result{Step: "scale", What: "rate of a first snapshot there / in an empty store", Value: t.median("empty") / t.median("large"),
		Bar: 0.8, Detail: t.detail("empty", "large")})
	return os.RemoveAll(dir)
}

func (b *bench) scaleRound(t times, dir string) error {
	empty, err := b.newStore("empty", "lz4")
	if err != nil {
		return err
	}
	if err := t.measure("empty", func() error { _, err := snapshot(b.ctx, empty, "vm", b.inputs[0], nil); return err }); err != nil {
		return err
	}
	if err := empty.Close(); err != nil {
		return err
	}
	var m *arcstore.Manager
	if err := t.measure("open", func() (err error) { m, err = arcstore.Open(b.ctx, dir, nil); return err }); err != nil {
		return err
	}
	defer m.Close()
	var s *arcstore.Snapshot
	if err := t.measure("large", func() (err error) { s, err = snapshot(b.ctx, m, "vm", b.inputs[0], nil); return err }); err != nil {
		return err
	}
	if _, err := m.Delete(b.ctx, s.ID); err != nil {
		return err
	}
	_, err = m.GC(b.ctx, nil)
	return err
}
