package manifest

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/arcboxlabs/arcstore/store/disk"
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
	if err := l.readAt(header, 0); err != nil {
		return err
	}
	if !bytes.Equal(header, encodeHeader()) {
		return l.corrupt(0, errors.New("its header is not that of a manifest"))
	}
	// Header, leaves, root and footer fill the file: an opened root is known to leave no gaps.
	for i := range l.root.streams {
		rs := &l.root.streams[i]
		s := &layerStream{layer: l, s: rs, len: chunks(rs.Size, l.root.chunkSize)}
		for i := range rs.leafCount() {
			if err := ctx.Err(); err != nil {
				return err
			}
			p := rs.place(i)
			err := s.leaf(i, func(b []byte) error {
				if err := decodeLeaf(b, leafChunksAt(s.len, p.number), func(kind, int, int, []byte) {}); err != nil {
					return l.corrupt(p.offset, err)
				}
				return nil
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// Mend writes a manifest's file anew if its header, which says nothing that is
// not known, is all that is damaged of it.
func (f *Files) Mend(ctx context.Context, d Digest) error {
	l, err := f.openLayer(d)
	if err != nil {
		return err
	}
	defer l.f.Close()
	header := make([]byte, headerSize)
	if err := l.readAt(header, 0); err != nil || bytes.Equal(header, encodeHeader()) {
		return err
	}
	info, err := l.f.Stat()
	if err != nil {
		return fmt.Errorf("manifest: %w", err)
	}
	b := make([]byte, info.Size())
	if err := l.readAt(b, 0); err != nil {
		return err
	}
	copy(b, encodeHeader())
	if err := disk.WriteFile(f.disk, f.path(d), b, true); err != nil {
		return fmt.Errorf("manifest: mend %s: %w", d, err)
	}
	return nil
}
