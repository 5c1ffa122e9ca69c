package store

import (
	"context"
	"slices"

	"github.com/arcboxlabs/arcstore/chunker"
	"github.com/arcboxlabs/arcstore/store/disk"
)

// dryRun reports what a sweep would delete and rewrite.
func (w *sweep) dryRun(ctx context.Context, c *census) error {
	e := &estimate{packSize: int(w.s.packSize)}
	// In the order of a sweep: what is dead at first is not there to be moved.
	deleted := make(map[PackID]bool)
	count := func() {
		for _, p := range slices.Concat(c.packs, c.unreadable) {
			if p.dead() && !deleted[p.id] && !w.pinned(p.id) {
				deleted[p.id] = true
				w.report.PacksDeleted++
				w.report.BytesDeleted += p.size
			}
		}
	}
	count()
	if err := w.moveAll(ctx, c, e); err != nil {
		return err
	}
	count()
	w.report.ChunksMoved, w.report.BytesRewritten, w.report.PacksWritten = e.chunks, e.bytes(), e.packs
	for _, dir := range w.s.leftoverDirs() {
		n, bytes, err := disk.Temporary(w.s.disk, dir)
		if err != nil {
			return err
		}
		w.report.Leftovers += n
		w.report.BytesLeftover += bytes
	}
	return nil
}

// estimate is where a dry run moves chunks: it counts what a writer would write.
type estimate struct {
	packSize int

	chunks int64
	stored int64
	packs  int
	room   int // bytes that the last pack has left
	slots  int // that it has left
}

func (e *estimate) from([]PackID) error { return nil }

func (e *estimate) move(_ chunker.ID, stored int) error {
	if e.room <= 0 || e.slots == 0 {
		e.packs++
		e.room, e.slots = e.packSize, maxSlots
	}
	e.room -= stored
	e.slots--
	e.chunks++
	e.stored += int64(stored)
	return nil
}

// bytes returns about what the packs would take.
func (e *estimate) bytes() int64 {
	return e.stored + e.chunks*(chunker.IDSize+1) + int64(e.packs)*(packHeaderSize+tableHeaderSize+packFooterSize)
}
