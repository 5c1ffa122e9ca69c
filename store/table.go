package store

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"sort"

	"github.com/zeebo/blake3"

	"github.com/arcboxlabs/arcstore/chunker"
	"github.com/arcboxlabs/arcstore/store/crypt"
)

// Limits of a pack; the encoder keeps them, so the decoder can insist.
const (
	maxSlots    = 1<<16 - 1
	maxFrameRaw = chunker.MaxChunkSize // bytes; at least frameTarget + the smallest chunk
)

const (
	tableHeaderSize = 32
	frameEntrySize  = 16
	shortEntrySize  = 8

	// maxTable is the length of the longest table, in bytes.
	maxTable = crypt.Overhead + tableHeaderSize + maxSlots*(frameEntrySize+chunker.IDSize+shortEntrySize)
)

// PackID names a pack: the BLAKE3-256 of its chunk table, as it stands in the file.
type PackID [32]byte

// String returns the ID as 64 hexadecimal digits, the pack's file name.
func (id PackID) String() string { return hex.EncodeToString(id[:]) }

// ParsePackID is the inverse of String.
func ParsePackID(s string) (PackID, error) {
	id, err := chunker.ParseID(s)
	if err != nil {
		return PackID{}, fmt.Errorf("store: %q is not a pack ID", s)
	}
	return PackID(id), nil
}

// frame is where a few consecutive chunks of a pack lie, compressed together.
type frame struct {
	offset int64 // in the pack file
	stored uint32
	raw    uint32
	crc    uint32 // CRC-32C of the stored bytes
	first  uint32 // slot of its first chunk
	chunks uint16
	codec  Codec
}

// table lists the chunks of a pack. It is immutable once decoded.
type table struct {
	pack      PackID
	created   int64  // Unix time of the pack's beginning, nanoseconds
	salt      uint64 // random: no two packs ever have one ID, so a name that a sweep drops never comes back
	size      int64  // of the pack file, bytes
	chunkSize int
	frames    []frame
	ids       []byte            // IDSize bytes a slot
	shorts    map[uint32]uint32 // slot → length, for chunks shorter than chunkSize
}

func (t *table) slots() int { return len(t.ids) / chunker.IDSize }

// id returns the ID of the chunk in slot.
func (t *table) id(slot int) *chunker.ID {
	return (*chunker.ID)(t.ids[slot*chunker.IDSize:])
}

// length returns the uncompressed length of the chunk in slot.
func (t *table) length(slot int) int {
	if t.shorts != nil {
		if n, ok := t.shorts[uint32(slot)]; ok {
			return int(n)
		}
	}
	return t.chunkSize
}

// frameOf returns the index of the frame that holds slot.
func (t *table) frameOf(slot int) int { return frameAt(t.frames, slot) }

func frameAt(frames []frame, slot int) int {
	return sort.Search(len(frames), func(i int) bool { return int(frames[i].first) > slot }) - 1
}

// share returns about how many stored bytes the chunk in slot takes.
func (t *table) share(slot int) int {
	f := &t.frames[t.frameOf(slot)]
	return int(f.stored) / int(f.chunks)
}

// encode returns the table's bytes as they stand in the pack.
func (t *table) encode() []byte {
	b := make([]byte, 0, tableHeaderSize+len(t.frames)*frameEntrySize+len(t.ids)+len(t.shorts)*shortEntrySize)
	b = binary.LittleEndian.AppendUint32(b, uint32(t.chunkSize))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(t.frames)))
	b = binary.LittleEndian.AppendUint32(b, uint32(t.slots()))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(t.shorts)))
	b = binary.LittleEndian.AppendUint64(b, uint64(t.created))
	b = binary.LittleEndian.AppendUint64(b, t.salt)
	for _, f := range t.frames {
		b = binary.LittleEndian.AppendUint32(b, f.stored)
		b = binary.LittleEndian.AppendUint32(b, f.raw)
		b = binary.LittleEndian.AppendUint32(b, f.crc)
		b = binary.LittleEndian.AppendUint16(b, f.chunks)
		b = append(b, byte(f.codec), 0)
	}
	b = append(b, t.ids...)
	slots := make([]uint32, 0, len(t.shorts))
	for slot := range t.shorts {
		slots = append(slots, slot)
	}
	sort.Slice(slots, func(i, j int) bool { return slots[i] < slots[j] })
	for _, slot := range slots {
		b = binary.LittleEndian.AppendUint32(b, slot)
		b = binary.LittleEndian.AppendUint32(b, t.shorts[slot])
	}
	return b
}

// decodeTable parses a pack's table as it stands in the file, whose frames must fill that from
// packHeaderSize to end. It keeps b.
func decodeTable(b []byte, end int64, seal *crypt.Sealer) (*table, error) {
	id := PackID(blake3.Sum256(b))
	b, err := seal.Open(nil, b, "")
	if err != nil {
		return nil, fmt.Errorf("table: %w", err)
	}
	if len(b) < tableHeaderSize {
		return nil, errors.New("table is too short")
	}
	le := binary.LittleEndian
	t := &table{pack: id, chunkSize: int(le.Uint32(b)), created: int64(le.Uint64(b[16:])), salt: le.Uint64(b[24:])}
	frames, slots, shorts := int64(le.Uint32(b[4:])), int64(le.Uint32(b[8:])), int64(le.Uint32(b[12:]))
	if err := chunker.CheckChunkSize(t.chunkSize); err != nil {
		return nil, err
	}
	if slots > maxSlots || frames > slots || shorts > slots {
		return nil, errors.New("table counts more than a pack can hold")
	}
	if int64(len(b)) != tableHeaderSize+frames*frameEntrySize+slots*chunker.IDSize+shorts*shortEntrySize {
		return nil, errors.New("table has another length than its counts say")
	}
	idsAt := tableHeaderSize + frames*frameEntrySize
	shortsAt := idsAt + slots*chunker.IDSize
	t.ids = b[idsAt:shortsAt:shortsAt]
	if shorts > 0 {
		t.shorts = make(map[uint32]uint32, shorts)
		for e, last := b[shortsAt:], int64(-1); len(e) > 0; e = e[shortEntrySize:] {
			slot, n := le.Uint32(e), le.Uint32(e[4:])
			if int64(slot) <= last || int64(slot) >= slots || n == 0 || n >= uint32(t.chunkSize) {
				return nil, errors.New("table has a bad short chunk")
			}
			t.shorts[slot], last = n, int64(slot)
		}
	}
	t.frames = make([]frame, frames)
	offset, first := int64(packHeaderSize), uint32(0)
	for i := range t.frames {
		e := b[tableHeaderSize+i*frameEntrySize:]
		f := frame{offset: offset, stored: le.Uint32(e), raw: le.Uint32(e[4:]), crc: le.Uint32(e[8:]),
			first: first, chunks: le.Uint16(e[12:]), codec: Codec(e[14])}
		if f.chunks == 0 || f.stored == 0 || int64(f.stored) > int64(f.raw)+int64(seal.Overhead()) || f.raw > maxFrameRaw || e[15] != 0 || int64(first)+int64(f.chunks) > slots {
			return nil, fmt.Errorf("table has a bad frame %d", i)
		}
		raw := int64(0)
		for s := range uint32(f.chunks) {
			raw += int64(t.length(int(first + s)))
		}
		if raw != int64(f.raw) {
			return nil, fmt.Errorf("frame %d has another length than its chunks", i)
		}
		t.frames[i] = f
		offset += int64(f.stored)
		first += uint32(f.chunks)
	}
	if int64(first) != slots || offset != end {
		return nil, errors.New("table's frames do not fill the pack")
	}
	return t, nil
}
