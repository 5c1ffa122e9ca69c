package store

import (
	"context"
	"path/filepath"
	"strings"
	"time"

	"github.com/arcboxlabs/arcstore/store/disk"
)

// settle leaves in damaged/ what is still true.
func (w *sweep) settle(ctx context.Context, c *census) error {
	d := w.s.damage
	packs, err := w.s.listPacks(ctx)
	if err != nil {
		return err
	}
	for id := range d.list() {
		if _, there := packs[id]; !there && id != noPack {
			if err := d.clear(id); err != nil {
				return err
			}
		}
	}
	w.removeOldNotes()
	return w.s.NoteLost(c.lost() > 0)
}

// oldNote is how long a note takes to be written at most, by a process that needs no lock for it.
const oldNote = time.Hour

// removeOldNotes removes what processes left that died while they noted something. What cannot be removed does no harm.
func (w *sweep) removeOldNotes() {
	d := w.s.disk
	for _, dir := range []string{w.s.dir, filepath.Join(w.s.dir, damagedName)} {
		entries, _ := d.ReadDir(dir)
		for _, e := range entries {
			if !strings.HasPrefix(e.Name(), disk.TempPrefix) {
				continue
			}
			if info, err := e.Info(); err == nil && time.Since(info.ModTime()) > oldNote {
				d.Remove(filepath.Join(dir, e.Name()))
			}
		}
	}
}
