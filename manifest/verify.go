package manifest

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"

	"github.com/arcboxlabs/arcstore/chunker"
)

// Verify reads the whole of one manifest's file, though not its ancestors',
// and returns a *CorruptError if any of it is damaged.
func (f *Files) Verify(ctx context.Context, d Digest) error {
	l, err := f.openLayer(d)
	if err != nil {
		return err
	}
	defer l.f.Close()
	header := make([]byte, headerSize)
	if _, err := l.f.ReadAt(header, 0); err != nil {
		return fmt.Errorf("manifest: read %s: %w", d, err)
	}
	if !bytes.Equal(header, fileHeader()) {
		return l.corrupt("its header is not that of a manifest")
	}
	var buf []byte
	entries := make([]chunker.ID, leafChunks)
	sum := int64(headerSize)
	for i := range l.root.streams {
		s := &l.root.streams[i]
		for e := s.leaves; len(e) > 0; e = e[leafEntry:] {
			if err := ctx.Err(); err != nil {
				return err
			}
			number := int64(binary.LittleEndian.Uint64(e))
			b, err := l.readLeaf(s, number, &buf)
			if err != nil {
				return err
			}
			sum += int64(len(b))
			n := min(leafChunks, chunks(s.Size, l.root.chunkSize)-number*leafChunks)
			if err := applyLeaf(b, entries[:n]); err != nil {
				return l.corrupt(err.Error())
			}
		}
	}
	if sum != l.end {
		return l.corrupt("its leaves do not fill it")
	}
	return nil
}
