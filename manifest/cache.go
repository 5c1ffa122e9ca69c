package manifest

import "sync"

const (
	// cachedLeaves is how many composed leaves a StreamTable keeps, at most 152 KiB each, unless KeepLeaves says otherwise.
	cachedLeaves = 32
	// maxCachedLeaves is how many it can keep: those of 16 GiB in pages of 4 KiB.
	maxCachedLeaves = 1024
)

// leafCache keeps the leaves that were used last. Several goroutines read a
// leaf at once; the first of them composes it.
type leafCache struct {
	mu    sync.Mutex
	slots []*slot
	where map[int64]*slot // the same, by number
	clock uint64
	spare *slot // evicted, and used by nobody
}

// slot is a leaf in the cache, or one that was evicted but is still used.
type slot struct {
	composed // written by who runs once
	once     sync.Once
	err      error

	// Guarded by the cache's mu.
	number int64
	used   uint64
	refs   int
	cached bool
}

// acquire returns a leaf that is in the cache, composed or about to be; nil if it is not.
func (c *leafCache) acquire(number int64) *slot {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.find(number)
}

func (c *leafCache) find(number int64) *slot {
	s := c.where[number]
	if s != nil {
		c.clock++
		s.used = c.clock
		s.refs++
	}
	return s
}

// resize has the cache keep so many leaves.
func (c *leafCache) resize(leaves int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.slots) < leaves {
		c.slots = append(c.slots, nil)
	}
}

// add is acquire that makes place for the leaf.
func (c *leafCache) add(number int64) *slot {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.find(number); s != nil {
		return s
	}
	if len(c.slots) == 0 {
		c.slots = make([]*slot, cachedLeaves)
	}
	if c.where == nil {
		c.where = make(map[int64]*slot)
	}
	at := c.victim(number)
	if s := c.slots[at]; s != nil {
		s.cached = false
		delete(c.where, s.number)
		c.recycle(s)
	}
	s := &slot{}
	if c.spare != nil {
		s, c.spare = c.spare, nil
		s.once, s.err = sync.Once{}, nil
	}
	c.clock++
	s.number, s.used, s.refs, s.cached = number, c.clock, 1, true
	c.slots[at], c.where[number] = s, s
	return s
}

// victim returns the index of the slot to use for a leaf: what a sequential
// reader has left behind him, an empty one, or that of the leaf unused for longest.
func (c *leafCache) victim(number int64) int {
	passed, empty, oldest, sequential := -1, -1, 0, false
	for i, s := range c.slots {
		switch {
		case s == nil:
			empty = i
			continue
		case s.number == number-1:
			sequential = true
		case s.number == number-2:
			passed = i
		}
		if o := c.slots[oldest]; o == nil || s.used < o.used {
			oldest = i
		}
	}
	switch {
	case sequential && passed >= 0:
		return passed // a pass over everything must not drive out what others use
	case empty >= 0:
		return empty
	}
	return oldest
}

// release ends what acquire or add began.
func (c *leafCache) release(s *slot) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s.refs--
	c.recycle(s)
}

// recycle keeps a slot's memory once nobody needs it.
func (c *leafCache) recycle(s *slot) {
	if s.refs == 0 && !s.cached {
		c.spare = s
	}
}

// drop takes out a leaf that could not be composed.
func (c *leafCache) drop(s *slot) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range c.slots {
		if c.slots[i] == s {
			c.slots[i] = nil
			s.cached = false
			delete(c.where, s.number)
		}
	}
}
