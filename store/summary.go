package store

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
)

// maxSummary is more bytes than the filter of a billion chunks takes.
const maxSummary = 1 << 32

func newStamp() (s [16]byte) {
	rand.Read(s[:])
	return s
}

// encodeSummary returns the bytes of the index's summary file: magic, version, stamp, the covered packs by
// number, the filter, and a checksum of it all.
func (x *index) encodeSummary() []byte {
	b := append([]byte(nil), summaryMagic...)
	b = binary.LittleEndian.AppendUint32(b, summaryVersion)
	b = append(b, x.stamp[:]...)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(x.packs)))
	for i := range x.packs {
		b = append(b, x.packs[i][:]...)
	}
	b = x.filter.appendTo(b)
	return binary.LittleEndian.AppendUint32(b, checksum(b))
}

// decodeSummary is the inverse of encodeSummary, into an empty index. Every
// error wraps ErrCorrupt: another version of derived data is as good as none.
func (x *index) decodeSummary(b []byte) error {
	const head = len(summaryMagic) + 4 + 16 + 4
	le := binary.LittleEndian
	if len(b) < head+4 || string(b[:8]) != summaryMagic || le.Uint32(b[8:]) != summaryVersion ||
		le.Uint32(b[len(b)-4:]) != checksum(b[:len(b)-4]) {
		return fmt.Errorf("store: index summary: %w", ErrCorrupt)
	}
	copy(x.stamp[:], b[12:])
	packs := int64(le.Uint32(b[28:]))
	body := b[head : len(b)-4]
	if packs > int64(len(body)/32) {
		return fmt.Errorf("store: index summary: %w", ErrCorrupt)
	}
	x.packs = make([]PackID, packs)
	for i := range x.packs {
		copy(x.packs[i][:], body[i*32:])
		x.numbers[x.packs[i]] = uint32(i)
	}
	f, err := decodeFilter(body[packs*32:])
	if err != nil {
		return fmt.Errorf("store: index summary: %w: %w", ErrCorrupt, err)
	}
	x.filter = f
	return nil
}
