package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"

	"github.com/arcboxlabs/arcstore"
)

const (
	chainDirty = 0.005 // of the pages, a snapshot
	chainKeep  = 10    // snapshots that stay
	chainGC    = 100   // snapshots from one collection to the next
)

// chainStep takes thousands of snapshots of one guest, half a percent dirty
// each, deletes their parents along the way, and compares the last one's
// restore with that of a lone snapshot of the same memory.
func (b *bench) chainStep() error {
	memory := filepath.Join(b.dir, "chain-memory")
	if err := b.tool("cp", "--sparse=always", b.inputs[0], memory); err != nil {
		return err
	}
	if err := os.Chmod(memory, 0o600); err != nil {
		return err
	}
	defer os.Remove(memory)
	m, err := b.newStore("chain", "lz4")
	if err != nil {
		return err
	}
	defer func() { m.Close() }()
	last, worst, err := b.growChain(m, memory)
	if err != nil {
		return err
	}
	lone, err := b.newStore("lone", "lz4")
	if err != nil {
		return err
	}
	defer lone.Close()
	alone, err := snapshot(b.ctx, lone, "vm", memory, nil)
	if err != nil {
		return err
	}
	t := make(times)
	out := filepath.Join(b.dir, "chain-out")
	for range b.rounds {
		for _, r := range []struct {
			name string
			m    *arcstore.Manager
			id   string
		}{{"chain", m, last.ID}, {"lone", lone, alone.ID}} {
			if err := os.RemoveAll(out); err != nil {
				return err
			}
			if err := t.measure(r.name, func() error { _, err := r.m.Restore(b.ctx, r.id, out, nil); return err }); err != nil {
				return err
			}
			if err := b.tool("cmp", filepath.Join(out, "memory"), memory); err != nil {
				return err
			}
		}
	}
	detail := t.detail("chain", "lone")
	for name, m := range map[string]*arcstore.Manager{"chain": m, "lone": lone} {
		stats, err := m.Stats(b.ctx)
		if err != nil {
			return err
		}
		detail[name+" frames for each MiB"] = stats.Fragmentation[len(stats.Fragmentation)-1].FramesPerMiB
		detail[name+" packs (bytes)"] = float64(stats.PackBytes)
		detail[name+" manifests (bytes)"] = float64(stats.ManifestBytes)
	}
	detail["frames for each MiB, the worst after any gc"] = worst
	b.add(Result{Step: "chain", What: fmt.Sprintf("restore of the last of %d snapshots / of a lone one", b.chain),
		Value: t.median("chain") / t.median("lone"), Bar: 1.3, AtMost: true, Detail: detail})
	return os.RemoveAll(out)
}

// growChain takes the snapshots, and returns the last one and the worst fragmentation after any collection.
func (b *bench) growChain(m *arcstore.Manager, memory string) (last *arcstore.Snapshot, worst float64, err error) {
	f, err := os.OpenFile(memory, os.O_RDWR, 0)
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, 0, err
	}
	r := rand.New(rand.NewPCG(3, 4))
	if last, err = snapshot(b.ctx, m, "vm", memory, nil); err != nil {
		return nil, 0, err
	}
	ids := []string{last.ID}
	for i := 1; i < b.chain; i++ {
		dirty, err := touch(f, info.Size(), chainDirty, true, r)
		if err != nil {
			return nil, 0, err
		}
		if last, err = snapshot(b.ctx, m, "vm", memory, &arcstore.CreateOptions{Parent: last.ID, Dirty: dirty}); err != nil {
			return nil, 0, err
		}
		if ids = append(ids, last.ID); len(ids) > chainKeep {
			if _, err := m.Delete(b.ctx, ids[0]); err != nil {
				return nil, 0, err
			}
			ids = ids[1:]
		}
		if i%chainGC == chainGC-1 {
			report, err := m.GC(b.ctx, nil)
			if err != nil {
				return nil, 0, err
			}
			worst = max(worst, report.FramesPerMiBWorst)
			fmt.Fprintf(os.Stderr, "bench: chain: %d snapshots; gc moved %d chunks in %.1fs\n", i+1, report.ChunksMoved, report.Duration.Seconds())
		}
	}
	return last, worst, nil
}
