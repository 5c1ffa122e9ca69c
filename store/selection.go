package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/bits"

	"github.com/arcboxlabs/arcstore/chunker"
	"github.com/arcboxlabs/arcstore/store/disk"
)

// Selection is chunks of a store, each in one of the packs that hold it. For one goroutine at a time.
type Selection struct {
	f     *Fetcher
	packs []*Selected // in the order in which they were first needed
	byID  map[PackID]*Selected
}

// Selected is a pack that holds chunks of a Selection.
type Selected struct {
	ID     PackID
	Size   int64 // of its file, bytes
	Chunks int   // selected
	table  *table
	slots  []uint64 // a bit a slot
}

// NewSelection returns an empty one. hints are packs to look in first.
func (s *Store) NewSelection(hints []PackID) *Selection {
	return &Selection{f: s.NewFetcher(hints), byID: make(map[PackID]*Selected)}
}

// Close lets go of the files.
func (s *Selection) Close() { s.f.Close() }

// Add selects chunks, none of them holes. It is an error that wraps ErrCorrupt if one of them is nowhere.
func (s *Selection) Add(ctx context.Context, ids []chunker.ID) error {
	refs, tables, missing, err := s.f.resolve(ctx, ids, nil)
	if err != nil {
		return err
	}
	if len(missing) > 0 {
		return fmt.Errorf("store: chunk %s: %w: %w", ids[missing[0]], ErrCorrupt, ErrNotFound)
	}
	for _, r := range refs {
		t := tables[r.table]
		p := s.byID[t.pack]
		if p == nil {
			p = &Selected{ID: t.pack, Size: t.size, table: t, slots: make([]uint64, (t.slots()+63)/64)}
			s.byID[t.pack] = p
			s.packs = append(s.packs, p)
		}
		if bit := uint64(1) << (r.slot & 63); p.slots[r.slot>>6]&bit == 0 {
			p.slots[r.slot>>6] |= bit
			p.Chunks++
		}
	}
	return nil
}

// Packs returns the packs that hold what was selected, in the order in which it was.
func (s *Selection) Packs() []*Selected { return s.packs }

// Share returns how much of the pack's chunks was selected, from 0 to 1.
func (p *Selected) Share() float64 { return float64(p.Chunks) / float64(p.table.slots()) }

// IDs returns the chunks selected, in the order in which they lie in the pack.
func (p *Selected) IDs() []chunker.ID {
	ids := make([]chunker.ID, 0, p.Chunks)
	for i, w := range p.slots {
		for ; w != 0; w &= w - 1 {
			ids = append(ids, *p.table.id(i<<6 + bits.TrailingZeros64(w)))
		}
	}
	return ids
}

// Copy puts the chunks of a pack that were selected into w. Every byte was verified.
func (s *Selection) Copy(ctx context.Context, p *Selected, w *Writer) error {
	size := p.table.chunkSize
	ids := p.IDs()
	for len(ids) > 0 {
		n := min(len(ids), max(1, moveBytes/size))
		data := make([][]byte, n)
		err := s.f.Fetch(ctx, ids[:n], func(i int, b []byte) error {
			for ; len(b) > 0; i++ {
				k := min(size, len(b)) // a short chunk ends what lies together
				data[i] = append([]byte(nil), b[:k]...)
				b = b[k:]
			}
			return nil
		})
		if err != nil {
			return err
		}
		for i := range n {
			if err := w.Put(ids[i], data[i]); err != nil {
				return err
			}
		}
		ids = ids[n:]
	}
	return nil
}

// PackFile is a pack as it lies on disk, to be copied elsewhere.
type PackFile struct {
	File  disk.File
	Size  int64
	Table []byte // as it stands in the file
}

// OpenPack opens a pack's file; fs.ErrNotExist if it is gone. Where check is set, every frame is compared with its
// checksum: a *CorruptError if one is wrong. File must be closed.
func (s *Store) OpenPack(ctx context.Context, id PackID, check bool) (*PackFile, error) {
	f, err := s.disk.Open(packPath(s.dir, id))
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	p, err := s.readPackFile(ctx, id, f, check)
	if err != nil {
		f.Close()
	}
	return p, err
}

func (s *Store) readPackFile(ctx context.Context, id PackID, f disk.File, check bool) (*PackFile, error) {
	t, err := s.loadTable(id)
	if err != nil {
		return nil, err
	}
	p := &PackFile{File: f, Size: t.size}
	end := int64(packHeaderSize)
	if n := len(t.frames); n > 0 {
		end = t.frames[n-1].offset + int64(t.frames[n-1].stored)
	}
	p.Table = make([]byte, t.size-packFooterSize-end)
	if _, err := f.ReadAt(p.Table, end); err != nil {
		return nil, fmt.Errorf("store: read pack %s: %w", id, err)
	}
	if !check {
		return p, nil
	}
	buf := make([]byte, readSize)
	for i := range t.frames {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		frame := &t.frames[i]
		if cap(buf) < int(frame.stored) {
			buf = make([]byte, frame.stored)
		}
		b := buf[:frame.stored]
		if _, err := f.ReadAt(b, frame.offset); err != nil && !errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("store: read pack %s: %w", id, err)
		}
		if checksum(b) != frame.crc {
			return nil, &CorruptError{Pack: id, Offset: frame.offset, Why: "frame has a wrong checksum"}
		}
	}
	return p, nil
}
