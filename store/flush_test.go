package store

import (
	"sync"
	"testing"

	"github.com/arcboxlabs/arcstore/chunker"
)

// TestFlushBesideSweep extends the index by packs that a sweep is deleting:
// afterwards the index, or the list of what lies outside it, has every pack that is left, once.
func TestFlushBesideSweep(t *testing.T) {
	s := newStore(t, Config{})
	m := model{}
	for round := range uint64(8) {
		var kept [][]chunker.ID
		for i := range uint64(12) {
			ids, _ := put(t, s, m, round*1000+i*10, round*1000+i*10+3)
			if i%3 == 0 {
				kept = append(kept, ids)
			}
		}
		var group sync.WaitGroup
		group.Go(func() {
			if err := s.flushIndex(); err != nil {
				t.Error(err)
			}
		})
		if _, err := s.Sweep(t.Context(), live(kept...), SweepOptions{}); err != nil {
			t.Error(err)
		}
		group.Wait()
		s.group.Wait() // the sweep may have the index made again
		s.mu.Lock()
		outside := make(map[PackID]bool)
		for _, table := range s.outside {
			if outside[table.pack] || s.index.covers(table.pack) || s.packs[table.pack] == nil {
				t.Errorf("pack %s is outside the index, and twice, inside, or gone", table.pack)
			}
			outside[table.pack] = true
		}
		for id := range s.packs {
			if !outside[id] && !s.index.covers(id) {
				t.Errorf("pack %s is neither in the index nor outside", id)
			}
		}
		s.mu.Unlock()
	}
}
