package capture

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/zeebo/xxh3"
	"golang.org/x/sync/errgroup"

	"github.com/arcboxlabs/arcstore/chunker"
)

// aheadBlock is how much of the memory is compared at once, in bytes: it fits into a core's cache.
const aheadBlock = 256 << 10

// maxCopied is how much of what changed is kept in memory, in bytes, so that the guest need not wait until it is stored.
const maxCopied = 64 << 20

// Ahead is the memory of a guest that is read while it runs. It remembers a fingerprint of each page as it was read, and
// finds out once the guest is paused which pages are others by then: at the speed of memory, where naming them again by their content takes
// several times as long.
//
// Fingerprints are of 128 bits, and seeded anew for each memory. Nothing is stored under them.
type Ahead struct {
	src   chunker.Source
	seed  uint64
	zero  xxh3.Uint128 // of a page of zeros
	pages []xxh3.Uint128

	mu     sync.Mutex
	copies map[int64][]byte // the pages that changed, nil for a hole
	copied int64            // bytes; more than maxCopied where some are missing
}

// What stands for pages without a fingerprint of their own. That a real one is the same is as likely as that two pages have the same.
var (
	unread  = xxh3.Uint128{}      // what was not read was a hole
	unknown = xxh3.Uint128{Lo: 1} // read more than once, and not the same
)

// ReadAhead returns src, to be captured while its guest runs.
func ReadAhead(src chunker.Source) *Ahead {
	a := &Ahead{src: src, seed: rand.Uint64(), pages: make([]xxh3.Uint128, (src.Size()+chunker.PageSize-1)/chunker.PageSize)}
	a.zero = xxh3.Hash128Seed(make([]byte, chunker.PageSize), a.seed)
	return a
}

// Size implements chunker.Source.
func (a *Ahead) Size() int64 { return a.src.Size() }

// ReadAt implements chunker.Source. Pages that are read in parts count as changed.
func (a *Ahead) ReadAt(p []byte, off int64) (n int, err error) {
	n, err = a.src.ReadAt(p, off)
	for at := 0; at < n; {
		page := (off + int64(at)) / chunker.PageSize
		begin := page * chunker.PageSize
		end := min(begin+chunker.PageSize, a.Size())
		size := int(end - off - int64(at))
		sum := unknown
		if off+int64(at) == begin && at+size <= n {
			sum = xxh3.Hash128Seed(p[at:at+size], a.seed)
		}
		if was := a.pages[page]; was != unread && was != sum {
			sum = unknown
		}
		a.pages[page] = sum
		at += size
	}
	return n, err
}

// NextData implements chunker.HoleFinder; a source that knows of no holes has none.
func (a *Ahead) NextData(off int64) (start, end int64, err error) { return nextData(a.src, off) }

func nextData(src chunker.Source, off int64) (start, end int64, err error) {
	if f, ok := src.(chunker.HoleFinder); ok {
		return f.NextData(off)
	}
	return off, src.Size(), nil
}

// Changed returns a bitmap of the pages that differ from what was read of them; the guest is paused.
func (a *Ahead) Changed(ctx context.Context) (chunker.Bitmap, error) {
	dirty := make(chunker.Bitmap, (len(a.pages)+63)/64*8)
	a.copies, a.copied = make(map[int64][]byte), 0
	at := int64(0)
	var blocks []int64
	for at < a.Size() {
		start, end, err := nextData(a.src, at)
		if err != nil {
			return nil, err
		}
		if start == end {
			a.nowHoles(dirty, at, a.Size())
			break
		}
		first := start / aheadBlock * aheadBlock
		a.nowHoles(dirty, at, first)
		for at = first; at < end; at += aheadBlock {
			blocks = append(blocks, at)
		}
	}
	var next atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	for range runtime.GOMAXPROCS(0) {
		g.Go(func() error {
			buf := make([]byte, aheadBlock)
			for i := next.Add(1) - 1; i < int64(len(blocks)); i = next.Add(1) - 1 {
				if err := ctx.Err(); err != nil {
					return err
				}
				if err := a.compare(dirty, blocks[i], buf); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return dirty, nil
}

// compareBeside begins what Changed does, and returns how to wait for it; nil for a, which was not read ahead, is never anything.
func (a *Ahead) compareBeside(ctx context.Context) (wait func() (chunker.Bitmap, error)) {
	if a == nil {
		return func() (chunker.Bitmap, error) { return nil, nil }
	}
	type result struct {
		dirty chunker.Bitmap
		err   error
	}
	done := make(chan result, 1)
	go func() {
		dirty, err := a.Changed(ctx)
		done <- result{dirty, err}
	}()
	return func() (chunker.Bitmap, error) {
		r := <-done
		return r.dirty, r.err
	}
}

// nowHoles marks the pages between two offsets that are holes and were none.
func (a *Ahead) nowHoles(dirty chunker.Bitmap, from, to int64) {
	for page := (from + chunker.PageSize - 1) / chunker.PageSize; page < min((to+chunker.PageSize-1)/chunker.PageSize, int64(len(a.pages))); page++ {
		if sum := a.pages[page]; sum != unread && sum != a.zero {
			a.mark(dirty, page, nil)
		}
	}
}

// compare marks the pages of a block that are others now. Blocks share no byte of the bitmap.
func (a *Ahead) compare(dirty chunker.Bitmap, off int64, buf []byte) error {
	buf = buf[:min(int64(len(buf)), a.Size()-off)]
	if err := chunker.ReadFull(a.src, buf, off); err != nil {
		return err
	}
	for at := 0; at < len(buf); at += chunker.PageSize {
		data := buf[at:min(at+chunker.PageSize, len(buf))]
		page := (off + int64(at)) / chunker.PageSize
		was := a.pages[page]
		same := was == xxh3.Hash128Seed(data, a.seed)
		if was == unread {
			same = chunker.IsZero(data)
		}
		if !same {
			a.mark(dirty, page, data)
		}
	}
	return nil
}

// mark notes that a page is another now, and keeps it if there is room.
func (a *Ahead) mark(dirty chunker.Bitmap, page int64, data []byte) {
	dirty[page/8] |= 1 << (page % 8)
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.copied += int64(len(data)); a.copied <= maxCopied {
		a.copies[page] = bytes.Clone(data)
	}
}

// Copy returns a source that has the pages which Changed has found, and no others, whatever becomes of the memory; nil where they were too many.
func (a *Ahead) Copy() chunker.Source {
	if a.copied > maxCopied {
		return nil
	}
	return pageCopies{a}
}

// pageCopies are the pages that changed.
type pageCopies struct{ a *Ahead }

// Size implements chunker.Source.
func (c pageCopies) Size() int64 { return c.a.Size() }

// ReadAt implements chunker.Source.
func (c pageCopies) ReadAt(p []byte, off int64) (n int, err error) {
	for n < len(p) {
		at := off + int64(n)
		page, ok := c.a.copies[at/chunker.PageSize]
		switch {
		case at >= c.Size():
			return n, io.EOF
		case !ok:
			return n, fmt.Errorf("capture: the page at byte %d was not kept", at)
		}
		end := min((at/chunker.PageSize+1)*chunker.PageSize, c.Size())
		part := p[n:min(int64(len(p)), int64(n)+end-at)]
		if page == nil {
			clear(part)
		} else {
			copy(part, page[at%chunker.PageSize:])
		}
		n += len(part)
	}
	return n, nil
}
