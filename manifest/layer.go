package manifest

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/zeebo/blake3"

	"github.com/arcboxlabs/arcstore/store/crypt"
	"github.com/arcboxlabs/arcstore/store/disk"
)

// layer is one open manifest file.
type layer struct {
	digest Digest
	f      disk.File
	seal   *crypt.Sealer
	root   *root
	end    int64 // of its leaves
}

// openLayer opens one file and checks its root against the digest.
func (f *Files) openLayer(d Digest) (*layer, error) {
	opened, err := f.disk.Open(f.path(d))
	if err != nil {
		return nil, f.wrap(d, err)
	}
	l := &layer{digest: d, f: opened, seal: f.seal}
	if err := l.open(); err != nil {
		opened.Close()
		return nil, err
	}
	return l, nil
}

func (l *layer) open() error {
	info, err := l.f.Stat()
	if err != nil {
		return fmt.Errorf("manifest: %w", err)
	}
	size := info.Size()
	if size < headerSize+footerSize {
		return l.corrupt(0, errors.New("it is too short"))
	}
	footer := make([]byte, footerSize)
	if err := l.readAt(footer, size-footerSize); err != nil {
		return err
	}
	offset, length, err := decodeFooter(footer, size)
	if err != nil {
		return l.corrupt(size-footerSize, err)
	}
	b := make([]byte, length)
	if err := l.readAt(b, offset); err != nil {
		return err
	}
	if digestOf(b) != l.digest {
		return l.corrupt(offset, errors.New("its root does not hash to its name"))
	}
	if b, err = l.seal.Open(nil, b, rootContext); err != nil {
		return l.corrupt(offset, err)
	}
	if l.root, err = decodeRoot(b, offset); err != nil {
		return l.corrupt(offset, err)
	}
	l.end = offset
	return nil
}

// corrupt makes of what a decoder found at an offset an error that names the file.
func (l *layer) corrupt(offset int64, why error) error {
	if errors.Is(why, ErrVersion) {
		return fmt.Errorf("manifest: %s: %w", l.digest, why)
	}
	return &CorruptError{File: l.digest.String(), Offset: offset, Why: why.Error()}
}

// readAt fills b. A file that is too short is damaged; any other error is the device's.
func (l *layer) readAt(b []byte, offset int64) error {
	_, err := l.f.ReadAt(b, offset)
	if errors.Is(err, io.EOF) {
		return l.corrupt(offset, errors.New("it ends early"))
	}
	if errors.Is(err, syscall.EIO) {
		return l.corrupt(offset, err) // a bad sector does not pass
	}
	if err != nil {
		return fmt.Errorf("manifest: read %s: %w", l.digest, err)
	}
	return nil
}

// checkParent checks that below is what this layer's root takes it for.
func (l *layer) checkParent(below *layer) error {
	r, p := l.root, below.root
	if p.depth != r.depth-1 || p.chunkSize != r.chunkSize || p.baseBytes != r.baseBytes || p.chainBytes != r.chainBytes-(l.end-headerSize) {
		return l.corrupt(l.end, fmt.Errorf("it does not fit its parent %s", below.digest))
	}
	return nil
}

// wrap makes an error of the disk one of this package.
func (f *Files) wrap(d Digest, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("manifest: %s: %w", d, ErrNotFound)
	}
	return fmt.Errorf("manifest: %w", err)
}

// readAhead is how many bytes of small leaves are read at once: there are
// hundreds of them in a layer of a few changed pages.
const readAhead = 64 << 10

// layerStream is a stream in one layer, with the leaves that were read last.
type layerStream struct {
	*layer
	s   *rootStream
	len int64 // chunks
	at  atomic.Pointer[window]
}

// window is consecutive leaves of a file. It does not change.
type window struct {
	offset, end int64
	b           []byte // nil when they were not worth keeping
}

var scratch = sync.Pool{New: func() any { return new([]byte) }}

// leaf calls use with the bytes of the i-th leaf, checked against the root.
func (l *layerStream) leaf(i int, use func(b []byte) error) error {
	p := l.s.place(i)
	w := l.at.Load()
	if w == nil || w.b == nil || p.offset < w.offset || p.end() > w.end {
		buf := scratch.Get().(*[]byte)
		defer scratch.Put(buf)
		var err error
		if w, err = l.read(i, w, buf); err != nil {
			return err
		}
	}
	b := w.b[p.offset-w.offset:][:p.length]
	if sum := blake3.Sum256(b); string(sum[:]) != string(p.hash) {
		l.at.Store(nil) // the next try reads it again
		return l.corrupt(p.offset, fmt.Errorf("leaf %d of stream %s does not hash to what the root says", p.number, l.s.Name))
	}
	if l.seal == nil {
		return use(b)
	}
	buf := scratch.Get().(*[]byte)
	defer scratch.Put(buf)
	text, err := l.seal.Open((*buf)[:0], b, leafContext)
	if err != nil {
		return l.corrupt(p.offset, err)
	}
	*buf = text
	return use(text)
}

// read returns a window that begins with the i-th leaf, or with the first one
// where all of them fit. It reads ahead only for who goes on where the last window ended.
func (l *layerStream) read(i int, last *window, buf *[]byte) (*window, error) {
	count := l.s.leafCount()
	first, p := i, l.s.place(i)
	end := p.end()
	if begin, all := l.s.place(0), l.s.place(count-1); all.end()-begin.offset <= readAhead {
		first, end = 0, all.end()
		p = begin
	} else if last != nil && last.end == p.offset && p.length <= readAhead/4 {
		for next := i + 1; next < count; next++ {
			q := l.s.place(next)
			if q.end()-p.offset > readAhead {
				break
			}
			end = q.end()
		}
	}
	keep := first != i || end > p.end()
	size := int(end - p.offset)
	w := &window{offset: p.offset, end: end}
	if keep {
		w.b = make([]byte, size)
	} else {
		if cap(*buf) < size {
			*buf = make([]byte, max(size, readAhead))
		}
		w.b = (*buf)[:size]
	}
	if err := l.readAt(w.b, w.offset); err != nil {
		return nil, err
	}
	if keep {
		l.at.Store(w)
	} else {
		l.at.Store(&window{offset: w.offset, end: w.end})
	}
	return w, nil
}
