package remote

import (
	"container/list"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sync/errgroup"
)

const (
	// blockSize is what is read at once around a page that is wanted, in bytes: at a gigabit a second, that takes a fifth of the way to a
	// server 20 ms away.
	blockSize = 512 << 10
	// blocksBytes bounds what is kept, in bytes.
	blocksBytes = 2 << 30
)

// blocks keeps parts of objects in a file without a name, those that were read last: who reads here and there, page by page, needs their
// neighbours soon, and so do others that run from the same snapshot. It is safe for concurrent use.
type blocks struct {
	mu    sync.Mutex
	file  *os.File
	where map[blockKey]*block
	order list.List // of *block, the last used first
	used  int64     // places of the file
}

type blockKey struct {
	object string
	number int64
}

type block struct {
	blockKey
	at    int64         // in the file
	done  chan struct{} // closed when it was read
	err   error
	refs  int // guarded by blocks.mu
	place *list.Element
}

// newBlocks makes the file.
func newBlocks() (*blocks, error) {
	dir, err := os.UserCacheDir()
	if err == nil {
		dir = filepath.Join(dir, "arcstore")
		err = os.MkdirAll(dir, 0o700)
	}
	if err != nil {
		dir = "" // where temporary files are
	}
	f, err := os.CreateTemp(dir, ".blocks-")
	if err != nil {
		return nil, fmt.Errorf("remote: %w", err)
	}
	os.Remove(f.Name())
	return &blocks{file: f, where: make(map[blockKey]*block)}, nil
}

func (b *blocks) close() error { return b.file.Close() }

// read fills p with the bytes of an object of size bytes from off on. fetch reads from the object itself.
func (b *blocks) read(object string, size int64, p []byte, off int64, fetch func(p []byte, off int64) error) error {
	var g errgroup.Group
	for len(p) > 0 {
		number := off / blockSize
		n := min(int64(len(p)), (number+1)*blockSize-off)
		part, at := p[:n], off
		if p, off = p[n:], off+n; len(p) == 0 {
			return errors.Join(b.readOne(blockKey{object, number}, size, part, at, fetch), g.Wait())
		}
		g.Go(func() error { return b.readOne(blockKey{object, number}, size, part, at, fetch) })
	}
	return g.Wait()
}

// readOne is read within one block.
func (b *blocks) readOne(key blockKey, size int64, p []byte, off int64, fetch func(p []byte, off int64) error) error {
	begin := key.number * blockSize
	k, mine := b.acquire(key)
	defer b.release(k)
	if !mine {
		<-k.done
		if k.err != nil {
			return fetch(p, off)
		}
		_, err := b.file.ReadAt(p, k.at+off-begin)
		return err
	}
	data := make([]byte, min(blockSize, size-begin))
	k.err = fetch(data, begin)
	if k.err == nil {
		copy(p, data[off-begin:])
		_, k.err = b.file.WriteAt(data, k.at)
	} else if err := fetch(p, off); err == nil { // perhaps what is damaged lies beside it
		close(k.done)
		return nil
	}
	close(k.done)
	return k.err
}

// acquire returns a block; mine says that the caller reads it.
func (b *blocks) acquire(key blockKey) (k *block, mine bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if k = b.where[key]; k != nil {
		k.refs++
		b.order.MoveToFront(k.place)
		return k, false
	}
	k = &block{blockKey: key, done: make(chan struct{}), refs: 1, at: -1}
	if b.used >= blocksBytes/blockSize {
		for e := b.order.Back(); e != nil; e = e.Prev() {
			if old := e.Value.(*block); old.refs == 0 {
				k.at = old.at
				b.order.Remove(e)
				delete(b.where, old.blockKey)
				break
			}
		}
	}
	if k.at < 0 {
		k.at = b.used * blockSize
		b.used++
	}
	b.where[key] = k
	k.place = b.order.PushFront(k)
	return k, true
}

// release ends what acquire began. A block that could not be read stays, as a place for another, but is not found.
func (b *blocks) release(k *block) {
	b.mu.Lock()
	defer b.mu.Unlock()
	k.refs--
	select {
	case <-k.done:
		if k.err != nil && b.where[k.blockKey] == k {
			delete(b.where, k.blockKey)
		}
	default:
	}
}
