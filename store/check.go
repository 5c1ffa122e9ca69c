package store

import (
	"context"
	"sync/atomic"

	"github.com/arcboxlabs/arcstore/chunker"
)

// indexCheck is a look at the index: it opens Badger, and makes the index
// again where it is out of order. In a store of millions of chunks that takes as long as
// hashing a hundred megabytes, so it goes on beside the first create.
type indexCheck struct {
	done    chan struct{} // closed when it has ended
	repairs atomic.Bool   // meanwhile the index knows but part of what it should
	ok      bool          // the index is in order; valid when done
	err     error
}

func (c *indexCheck) ended() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// startCheck has the index looked at, until it was found in order once; the caller holds mu.
func (s *Store) startCheck() {
	if s.check != nil && (!s.check.ended() || s.check.ok) {
		return
	}
	c := &indexCheck{done: make(chan struct{})}
	s.check = c
	s.group.Go(func() {
		defer close(c.done)
		s.checkIndex(c)
	})
}

func (s *Store) checkIndex(c *indexCheck) {
	s.flushing.Lock()
	defer s.flushing.Unlock()
	err := s.index.check()
	if err != nil && !noRoom(err) {
		c.repairs.Store(true)
		_, err = s.rebuildIndex(context.Background())
	}
	c.ok = err == nil
	// Without room for the index, chunks that it knows are stored again: the next sweep drops them.
	if !noRoom(err) {
		c.err = err
	}
}

// awaitIndex waits for the check where its end may matter to a chunk. The
// caller holds mu, which is free while it waits.
func (s *Store) awaitIndex(id *chunker.ID, ctx context.Context) error {
	c := s.check
	if !c.ended() {
		if !c.repairs.Load() && !s.index.mayHave(id) {
			return nil
		}
		s.mu.Unlock()
		defer s.mu.Lock()
		select {
		case <-c.done:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return c.err
}
