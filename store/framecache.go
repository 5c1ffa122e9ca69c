package store

import (
	"container/list"
	"sync"
)

// FrameCacheSize is how much of frames that were read lately is kept decompressed, unless SetFrameCache says otherwise, in bytes.
const FrameCacheSize = 128 << 20

// frameCache keeps frames decompressed, those that were used last: all who read snapshots of one store page by page share
// them, and each is decompressed once.
type frameCache struct {
	mu     sync.Mutex
	limit  int64
	bytes  int64 // of all frames in the cache
	frames map[frameKey]*OpenFrame
	order  list.List // of *OpenFrame, the last used first
	free   [][]byte  // of frameTarget bytes, from frames that are gone

	loaded, shared int64
}

// frameKey is a frame's place: a table is the same as long as somebody has it.
type frameKey struct {
	pack PackID
	at   int
}

// maxFree bounds the memory kept of frames that are gone, in frames.
const maxFree = 64

// SetFrameCache bounds what is kept of frames that OpenFrame decompressed, in bytes. What is in use counts, but stays.
func (s *Store) SetFrameCache(bytes int64) {
	c := &s.cache
	c.mu.Lock()
	defer c.mu.Unlock()
	c.limit = bytes
	c.shrink()
}

// FramesShared returns how many frames OpenFrame and Warm have decompressed, and how many times a frame was there already.
func (s *Store) FramesShared() (loaded, shared int64) {
	c := &s.cache
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.loaded, c.shared
}

// acquire returns a frame, which must be released. mine says that it is not loaded, and that the caller must do so.
func (c *frameCache) acquire(t *table, at int) (f *OpenFrame, mine bool) {
	key := frameKey{t.pack, at}
	c.mu.Lock()
	defer c.mu.Unlock()
	if f := c.frames[key]; f != nil {
		f.refs++
		c.shared++
		c.order.MoveToFront(f.place)
		return f, false
	}
	f = newOpenFrame(c, key, t)
	f.refs = 1
	if n := len(c.free); n > 0 && cap(c.free[n-1]) >= int(f.frame.raw) {
		f.raw, c.free = c.free[n-1], c.free[:n-1]
	}
	if c.frames == nil {
		c.frames = make(map[frameKey]*OpenFrame)
	}
	c.frames[key] = f
	f.place = c.order.PushFront(f)
	c.bytes += int64(f.frame.raw)
	c.loaded++
	c.shrink()
	return f, true
}

// shrink drops what was not used for longest, but nothing that is in use; the caller holds mu.
func (c *frameCache) shrink() {
	limit := c.limit
	if limit == 0 {
		limit = FrameCacheSize
	}
	for e := c.order.Back(); e != nil && c.bytes > limit; {
		f := e.Value.(*OpenFrame)
		e = e.Prev()
		if f.refs == 0 {
			c.remove(f)
		}
	}
}

// remove takes a frame out of the cache; the caller holds mu. Who has it keeps it.
func (c *frameCache) remove(f *OpenFrame) {
	if c.frames[f.key] != f {
		return
	}
	delete(c.frames, f.key)
	c.order.Remove(f.place)
	c.bytes -= int64(f.frame.raw)
	if f.refs == 0 {
		c.recycle(f)
	}
}

// recycle keeps the memory of a frame that nobody has; the caller holds mu.
func (c *frameCache) recycle(f *OpenFrame) {
	if cap(f.raw) == frameTarget && len(c.free) < maxFree {
		c.free = append(c.free, f.raw[:0])
	}
	f.raw = nil
}

// release ends what acquire began.
func (c *frameCache) release(f *OpenFrame) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f.refs--
	if f.refs == 0 && c.frames[f.key] != f {
		c.recycle(f)
	}
}

// drop takes out a frame that could not be loaded.
func (c *frameCache) drop(f *OpenFrame) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.remove(f)
}
