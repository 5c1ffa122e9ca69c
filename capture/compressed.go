package capture

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// decompressor returns a reader of what a compressed file holds, or nil if
// the file is not compressed. It begins at the file's start.
func decompressor(f *os.File) (io.ReadCloser, error) {
	magic := make([]byte, 6)
	n, err := io.ReadFull(f, magic)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	magic = magic[:n]
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		r := &gzipReader{in: bufio.NewReaderSize(f, 1<<20)}
		var err error
		if r.Reader, err = gzip.NewReader(r.in); err != nil {
			return nil, damagedCompression(err)
		}
		r.Multistream(false)
		return cutReader{r}, nil
	case bytes.HasPrefix(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		r, err := zstd.NewReader(f, zstd.WithDecoderMaxWindow(128<<20))
		if err != nil {
			return nil, damagedCompression(err)
		}
		return cutReader{r.IOReadCloser()}, nil
	case bytes.HasPrefix(magic, []byte("BZh")):
		return nil, fmt.Errorf("%w: it is compressed by bzip2: decompress it first (bunzip2)", ErrArchive)
	case bytes.HasPrefix(magic, []byte{0xfd, '7', 'z', 'X', 'Z', 0}):
		return nil, fmt.Errorf("%w: it is compressed by xz: decompress it first (unxz)", ErrArchive)
	}
	return nil, nil
}

// gzipReader reads gzip files that follow each other as one, and tells what
// else follows from a file that is cut short.
type gzipReader struct {
	*gzip.Reader
	in *bufio.Reader
}

func (g *gzipReader) Read(p []byte) (int, error) {
	n, err := g.Reader.Read(p)
	if !errors.Is(err, io.EOF) {
		return n, err
	}
	if n > 0 {
		return n, nil // the next call is at the end, too
	}
	switch magic, err := g.in.Peek(2); {
	case len(magic) == 0:
		return 0, err // the end
	case !bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		return 0, errors.New("something follows that gzip did not write")
	}
	if err := g.Reset(g.in); err != nil {
		return 0, err
	}
	g.Multistream(false)
	return 0, nil
}

// cutReader says of a compressed file that it is cut short, or damaged.
type cutReader struct{ io.ReadCloser }

func (c cutReader) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = damagedCompression(err)
	}
	return n, err
}

func damagedCompression(err error) error {
	var failed *os.PathError
	switch {
	case errors.As(err, &failed):
		return err // the disk's
	case errors.Is(err, io.ErrUnexpectedEOF):
		return errCut
	}
	return fmt.Errorf("%w: what it is compressed to is damaged: %w", ErrArchive, err)
}
