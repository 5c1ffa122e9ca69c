package capture

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"

	"github.com/arcboxlabs/arcstore/chunker"
	"github.com/arcboxlabs/arcstore/manifest"
)

// ErrDirtyBitmap is wrapped by the error for a bitmap that calls a page clean
// that differs from the parent's.
var ErrDirtyBitmap = errors.New("the dirty bitmap is wrong")

// DefaultCleanSample is how many pages that a bitmap calls clean there are for one that is checked.
const DefaultCleanSample = 1000

// Sink takes the chunks that a capture finds changed. Put keeps no reference to data.
type Sink interface {
	Put(id chunker.ID, data []byte) error
}

// Entries is a stream's page table under construction: each call adds the
// next entries, Inherit those that are as in the parent's.
type Entries interface {
	Append(ids []chunker.ID) error
	Hole(n int64) error
	Inherit(n int64) error
}

// Parent is the page table of the stream in the parent snapshot.
type Parent interface {
	Len() int64
	Size() int64
	Lookup(first int64, ids []chunker.ID) error
}

// StreamOptions are the choices of a stream's capture.
type StreamOptions struct {
	ChunkSize   int             // bytes
	Hasher      *chunker.Hasher // names the chunks; nil in a store without encryption
	Parent      Parent          // nil for none
	Dirty       chunker.Bitmap  // nil for none; demands a Parent
	CleanSample int             // as Options.CleanSample
	// Damaged says of a chunk of the parent's whether it must be put again,
	// since the store has no sound copy of it. nil, where no damage is known, costs nothing.
	Damaged  func(id chunker.ID) bool
	Progress func(n int64) // told how many more bytes are done
}

// StreamStats says what a capture saw of a stream, in bytes.
type StreamStats struct {
	Scanned   int64 // read and hashed
	Inherited int64 // found, or said, to be as in the parent; holes counted
	Healed    int64 // as in the parent, but put again
}

// streamCapture is the capture of one stream.
type streamCapture struct {
	src    chunker.Source
	sink   Sink
	out    Entries
	opts   StreamOptions
	stats  StreamStats
	parent []chunker.ID // entries of the batch at hand
	sample int64        // next chunk to be checked, if it is clean
	window int64        // that it was drawn from: chunks [window*step, (window+1)*step)
	step   int64        // 0 or less for no checks
	buf    []byte       // for pages that are called clean and looked at
}

// Stream captures src: changed chunks go to sink, the page table to out. Both
// are used from the calling goroutine.
func Stream(ctx context.Context, src chunker.Source, sink Sink, out Entries, opts StreamOptions) (StreamStats, error) {
	c := &streamCapture{src: src, sink: sink, out: out, opts: opts}
	if opts.Dirty != nil {
		if opts.Parent == nil {
			return c.stats, errors.New("capture: a dirty bitmap says what changed since the parent, but there is none")
		}
		if opts.Parent.Size() != src.Size() {
			return c.stats, fmt.Errorf("capture: %w: the parent's stream has %d bytes, this one %d", ErrDirtyBitmap, opts.Parent.Size(), src.Size())
		}
		if c.step = int64(opts.CleanSample); c.step == 0 {
			c.step = DefaultCleanSample
		}
		if c.step > 0 {
			c.draw(0)
		}
	}
	err := chunker.Split(ctx, src, chunker.Options{ChunkSize: opts.ChunkSize, Hasher: opts.Hasher, Dirty: opts.Dirty}, func(b *chunker.Batch) error {
		var err error
		switch b.Kind {
		case chunker.Data:
			err = c.data(b)
		case chunker.Hole:
			err = c.hole(b.First, b.Count)
		case chunker.Clean:
			err = c.clean(b.First, b.Count)
		}
		if err == nil && opts.Progress != nil {
			opts.Progress(min(b.Count*int64(opts.ChunkSize), src.Size()-b.First*int64(opts.ChunkSize)))
		}
		return err
	})
	return c.stats, err
}

// lookup returns how many of the n entries from first on the parent has, and
// sets c.parent to them. Where its page table is damaged, it has none.
func (c *streamCapture) lookup(first, n int64) (int, error) {
	if c.opts.Parent == nil {
		return 0, nil
	}
	if n = min(n, c.opts.Parent.Len()-first); n <= 0 {
		return 0, nil // this stream is longer
	}
	if int64(cap(c.parent)) < n {
		c.parent = make([]chunker.ID, n)
	}
	c.parent = c.parent[:n]
	err := c.opts.Parent.Lookup(first, c.parent)
	if errors.Is(err, manifest.ErrCorrupt) {
		return 0, nil
	}
	return int(n), err
}

// damaged reports whether a chunk of the parent's must be put again.
func (c *streamCapture) damaged(id chunker.ID) bool {
	return c.opts.Damaged != nil && !id.IsHole() && c.opts.Damaged(id)
}

// data takes a batch that was read: runs that are as in the parent, and runs that are not.
func (c *streamCapture) data(b *chunker.Batch) error {
	c.stats.Scanned += int64(len(b.Data))
	known, err := c.lookup(b.First, b.Count)
	if err != nil {
		return err
	}
	same := func(i int) bool { return i < known && c.parent[i] == b.IDs[i] && !c.damaged(b.IDs[i]) }
	for i := 0; i < len(b.IDs); {
		end := i + 1
		if same(i) {
			for end < len(b.IDs) && same(end) {
				end++
			}
			c.stats.Inherited += int64(min(end*c.opts.ChunkSize, len(b.Data)) - i*c.opts.ChunkSize)
			err = c.out.Inherit(int64(end - i))
		} else {
			for end < len(b.IDs) && !same(end) {
				end++
			}
			for k := i; k < end && err == nil; k++ {
				if !b.IDs[k].IsHole() {
					err = c.sink.Put(b.IDs[k], b.Chunk(k, c.opts.ChunkSize))
				}
				if k < known && c.parent[k] == b.IDs[k] {
					c.stats.Healed += int64(len(b.Chunk(k, c.opts.ChunkSize)))
				}
			}
			if err == nil {
				err = c.out.Append(b.IDs[i:end])
			}
		}
		if err != nil {
			return err
		}
		i = end
	}
	return nil
}

// holeStep is how many of the parent's entries are looked at at once.
const holeStep = 4096

// hole takes a range that the source says is empty.
func (c *streamCapture) hole(first, count int64) error {
	for count > 0 {
		n := min(count, holeStep)
		known, err := c.lookup(first, n)
		if err != nil {
			return err
		}
		if known == 0 {
			return c.out.Hole(count)
		}
		n = int64(known)
		for i := 0; i < known; {
			end := i + 1
			for end < known && c.parent[end].IsHole() == c.parent[i].IsHole() {
				end++
			}
			if c.parent[i].IsHole() {
				err = c.out.Inherit(int64(end - i))
			} else {
				err = c.out.Hole(int64(end - i))
			}
			if err != nil {
				return err
			}
			i = end
		}
		first += n
		count -= n
	}
	return nil
}

// clean takes a range that the dirty bitmap calls unchanged, and checks a sample of it.
func (c *streamCapture) clean(first, count int64) error {
	if c.opts.Damaged != nil {
		if err := c.heal(first, count); err != nil {
			return err
		}
	} else if err := c.inherit(first, count); err != nil {
		return err
	}
	if c.step <= 0 {
		return nil
	}
	if c.window < first/c.step {
		c.draw(first / c.step)
	}
	for ; c.sample < first+count; c.draw(c.window + 1) {
		if c.sample < first {
			continue
		}
		if err := c.check(c.sample); err != nil {
			return err
		}
	}
	return nil
}

// inherit takes a range as it is in the parent.
func (c *streamCapture) inherit(first, count int64) error {
	size := int64(c.opts.ChunkSize)
	c.stats.Inherited += min(count*size, c.src.Size()-first*size)
	return c.out.Inherit(count)
}

// heal is inherit where damage is known: chunks of the parent's that are
// damaged, or not known, are read after all.
func (c *streamCapture) heal(first, count int64) error {
	for count > 0 {
		n := min(count, holeStep-first%holeStep)
		known, err := c.lookup(first, n)
		if err != nil {
			return err
		}
		parent := slices.Clone(c.parent[:known])
		for i := int64(0); i < n; {
			end := i
			for end < n && end < int64(known) && !c.damaged(parent[end]) {
				end++
			}
			if end > i {
				err = c.inherit(first+i, end-i)
			} else {
				end++
				want := (*chunker.ID)(nil)
				if i < int64(known) {
					want = &parent[i]
				}
				err = c.reread(first+i, want)
			}
			if err != nil {
				return err
			}
			i = end
		}
		first += n
		count -= n
	}
	return nil
}

// reread puts a chunk that should be clean; want is the parent's, where that is known.
func (c *streamCapture) reread(chunk int64, want *chunker.ID) error {
	id, data, err := c.read(chunk)
	if err != nil {
		return err
	}
	if want != nil && id != *want {
		return c.notClean(chunk)
	}
	if !id.IsHole() {
		if err := c.sink.Put(id, data); err != nil {
			return err
		}
		c.stats.Healed += int64(len(data))
	}
	return c.out.Append([]chunker.ID{id})
}

// read reads a chunk that the bitmap calls clean; the bytes are valid until the next call.
func (c *streamCapture) read(chunk int64) (id chunker.ID, data []byte, err error) {
	size := int64(c.opts.ChunkSize)
	if c.buf == nil {
		c.buf = make([]byte, size)
	}
	data = c.buf[:min(size, c.src.Size()-chunk*size)]
	if err := chunker.ReadFull(c.src, data, chunk*size); err != nil {
		return id, nil, err
	}
	c.stats.Scanned += int64(len(data))
	if !chunker.IsZero(data) {
		id = c.opts.Hasher.Sum(data)
	}
	return id, data, nil
}

func (c *streamCapture) notClean(chunk int64) error {
	return fmt.Errorf("capture: %w: it calls the page at byte %d clean, but the page differs from the parent's; take the snapshot without the bitmap, or name the snapshot that the bitmap was started from as the parent",
		ErrDirtyBitmap, chunk*int64(c.opts.ChunkSize))
}

// draw chooses the chunk to be checked in a window: at random, for a fixed
// distance would miss what changes at one, such as every fourth page.
func (c *streamCapture) draw(window int64) {
	c.window = window
	c.sample = window*c.step + rand.Int64N(c.step)
}

// check compares a chunk that should be clean with the parent's.
func (c *streamCapture) check(chunk int64) error {
	id, _, err := c.read(chunk)
	if err != nil {
		return err
	}
	known, err := c.lookup(chunk, 1)
	if err == nil && known > 0 && id != c.parent[0] {
		return c.notClean(chunk)
	}
	return err
}
