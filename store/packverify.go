package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
)

// packVerifier verifies one pack.
type packVerifier struct {
	s       *Store
	id      PackID
	data    bool
	advance func(n int64) // is told the bytes that are done; of a pack that is read whole

	table        *table
	unreadable   bool // the table is
	chunks, read int64
	damage       []PackDamage
	bad          []uint32 // slots, in order
}

func (p *packVerifier) verify(ctx context.Context) error {
	t, err := p.s.loadTable(p.id)
	if errors.Is(err, ErrCorrupt) {
		p.unreadable = true
		p.damage = append(p.damage, PackDamage{Pack: p.id, Offset: -1, Err: err})
		return nil
	}
	if err != nil {
		return err
	}
	p.table, p.chunks = t, int64(t.slots())
	f, err := p.s.disk.Open(packPath(p.s.dir, p.id))
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	defer f.Close()
	header := make([]byte, packHeaderSize)
	if _, err := f.ReadAt(header, 0); err != nil && errors.Is(readError(err), errDevice) {
		return fmt.Errorf("store: read pack %s: %w", p.id, err)
	}
	if !slices.Equal(header, packHeader(p.s.frameSeal)) {
		p.damage = append(p.damage, PackDamage{Pack: p.id, Offset: 0,
			Err: &CorruptError{Pack: p.id, Offset: 0, Why: "header is not that of a pack"}})
	}
	if !p.data {
		return nil
	}
	if err := p.frames(ctx, f); err != nil {
		return err
	}
	p.advance(t.size - p.read)
	return nil
}

// frames reads and verifies the frames.
func (p *packVerifier) frames(ctx context.Context, f io.ReaderAt) error {
	t := p.table
	r := p.s.newFrameReader(nil)
	defer r.decoder.close()
	buf := make([]byte, readSize)
	for at := 0; at < len(t.frames); {
		if err := ctx.Err(); err != nil {
			return err
		}
		end, size := at+1, int(t.frames[at].stored)
		for end < len(t.frames) && size+int(t.frames[end].stored) <= readSize {
			size += int(t.frames[end].stored)
			end++
		}
		if len(buf) < size {
			buf = make([]byte, size)
		}
		from := t.frames[at].offset
		if err := readFrames(f, t.frames[at:end], buf[:size]); err != nil {
			return fmt.Errorf("store: read pack %s: %w", p.id, err)
		}
		p.read += int64(size)
		p.advance(int64(size))
		for ; at < end; at++ {
			fr := &t.frames[at]
			p.frame(r, fr, buf[fr.offset-from:][:fr.stored])
		}
	}
	return nil
}

func (p *packVerifier) frame(r *frameReader, f *frame, stored []byte) {
	t := p.table
	raw, why := r.decode(t, f, stored)
	damage := PackDamage{Pack: p.id, Offset: f.offset}
	if why != nil {
		damage.Err = why
	}
	offset := 0
	for slot := int(f.first); slot < int(f.first)+int(f.chunks); slot++ {
		n := t.length(slot)
		if r.hasher.Sum(raw[offset:offset+n]) != *t.id(slot) {
			p.bad = append(p.bad, uint32(slot))
			damage.Chunks = append(damage.Chunks, *t.id(slot))
			if damage.Err == nil {
				damage.Err = corruptChunk(t, f, slot, nil)
			}
		}
		offset += n
	}
	if damage.Err != nil {
		p.damage = append(p.damage, damage)
	}
}
