package manifest

import "sync"

// cachedLeaves is how many composed leaves a StreamTable keeps: at most 136 KiB each.
const cachedLeaves = 32

// leafCache keeps the leaves that were used last. Several goroutines read a
// leaf at once; the first of them composes it.
type leafCache struct {
	mu    sync.Mutex
	slots [cachedLeaves]*slot
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
	for _, s := range c.slots {
		if s != nil && s.number == number {
			c.clock++
			s.used = c.clock
			s.refs++
			return s
		}
	}
	return nil
}

// add is acquire that makes place for the leaf.
func (c *leafCache) add(number int64) *slot {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.find(number); s != nil {
		return s
	}
	oldest := 0
	for i, s := range c.slots {
		if s == nil {
			oldest = i
			break
		}
		if s.used < c.slots[oldest].used {
			oldest = i
		}
	}
	if s := c.slots[oldest]; s != nil {
		s.cached = false
		c.recycle(s)
	}
	s := &slot{}
	if c.spare != nil {
		s, c.spare = c.spare, nil
		s.once, s.err = sync.Once{}, nil
	}
	c.clock++
	s.number, s.used, s.refs, s.cached = number, c.clock, 1, true
	c.slots[oldest] = s
	return s
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
		}
	}
}
