package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/zeebo/blake3"

	"github.com/arcboxlabs/arcstore/chunker"
	"github.com/arcboxlabs/arcstore/store/crypt"
	"github.com/arcboxlabs/arcstore/store/disk"
)

const (
	packMagic      = "arcpack\n"
	packVersion    = 1
	packHeaderSize = 16
	packFooterSize = 64

	// PackSize is the size at which a pack is sealed, in bytes of stored frames.
	PackSize = 16 << 20
	// packWriteSize is how much of a pack is gathered before it is written.
	packWriteSize = 256 << 10
)

// CorruptError says which part of which file is damaged. It wraps ErrCorrupt.
type CorruptError struct {
	Pack   PackID
	Offset int64      // in the pack file; -1 where it is the file as a whole
	Chunk  chunker.ID // the chunk that is affected, where it is just one
	Why    string
	Err    error // of the disk, where that is the cause; nil otherwise
}

func (e *CorruptError) Error() string {
	s := fmt.Sprintf("store: pack %s", e.Pack)
	if e.Offset >= 0 {
		s += fmt.Sprintf(" at byte %d", e.Offset)
	}
	if !e.Chunk.IsHole() {
		s += fmt.Sprintf(", chunk %s", e.Chunk)
	}
	return s + ": " + ErrCorrupt.Error() + ": " + e.Why
}

// Is makes errors.Is(err, ErrCorrupt) hold.
func (e *CorruptError) Is(target error) bool { return target == ErrCorrupt }

// Unwrap returns the error of the disk.
func (e *CorruptError) Unwrap() error { return e.Err }

func packPath(dir string, id PackID) string {
	name := id.String()
	return filepath.Join(dir, packsName, name[:2], name)
}

// sealedPack is what a pack's header says of one whose table and frames are encrypted.
const sealedPack = 1

func packHeader(seal *crypt.Sealer) []byte {
	b := make([]byte, 0, packHeaderSize)
	b = append(b, packMagic...)
	b = binary.LittleEndian.AppendUint32(b, packVersion)
	flags := uint32(0)
	if seal != nil {
		flags = sealedPack
	}
	return binary.LittleEndian.AppendUint32(b, flags)
}

// packFooter ends a pack: where its table is, and what it must hash to.
type packFooter struct {
	tableOffset, tableLength int64
	id                       PackID
}

func (f *packFooter) encode() []byte {
	b := make([]byte, 0, packFooterSize)
	b = binary.LittleEndian.AppendUint64(b, uint64(f.tableOffset))
	b = binary.LittleEndian.AppendUint64(b, uint64(f.tableLength))
	b = append(b, f.id[:]...)
	b = binary.LittleEndian.AppendUint32(b, packVersion)
	b = binary.LittleEndian.AppendUint32(b, checksum(b))
	return append(b, packMagic...)
}

// decodeFooter parses the last packFooterSize bytes of a pack of size bytes.
func decodeFooter(b []byte, size int64) (packFooter, error) {
	var f packFooter
	if len(b) != packFooterSize || string(b[56:]) != packMagic {
		return f, errors.New("footer has no magic")
	}
	le := binary.LittleEndian
	// Of all versions, so that a flipped bit does not pass for a newer one.
	if le.Uint32(b[52:]) != checksum(b[:52]) {
		return f, errors.New("footer has a wrong checksum")
	}
	if v := le.Uint32(b[48:]); v > packVersion {
		return f, fmt.Errorf("%w: the pack has format %d, this program knows up to %d", ErrVersion, v, packVersion)
	}
	f.tableOffset, f.tableLength = int64(le.Uint64(b)), int64(le.Uint64(b[8:]))
	copy(f.id[:], b[16:48])
	if f.tableOffset < packHeaderSize || f.tableLength < tableHeaderSize || f.tableLength > maxTable ||
		f.tableLength > size || f.tableOffset != size-packFooterSize-f.tableLength {
		return f, errors.New("footer does not fit the file's size")
	}
	return f, nil
}

// loadTable reads and checks a pack's footer and table.
func (s *Store) loadTable(id PackID) (*table, error) {
	f, err := s.disk.Open(packPath(s.dir, id))
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	t, err := readTable(f, info.Size(), s.tableSeal)
	if err != nil {
		if errors.Is(err, ErrVersion) || errors.Is(err, errDevice) {
			return nil, fmt.Errorf("store: pack %s: %w", id, err)
		}
		return nil, &CorruptError{Pack: id, Offset: -1, Why: err.Error(), Err: err}
	}
	if t.pack != id {
		return nil, &CorruptError{Pack: id, Offset: -1, Why: "the table hashes to another ID"}
	}
	return t, nil
}

// errDevice marks what may pass: it is no damage.
var errDevice = errors.New("read failed")

// readError tells damage from what may pass. A sector that cannot be read is damage.
func readError(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, syscall.EIO) {
		return err
	}
	return fmt.Errorf("%w: %w", errDevice, err)
}

// readTable reads the table of a pack of size bytes.
func readTable(r io.ReaderAt, size int64, seal *crypt.Sealer) (*table, error) {
	if size < packHeaderSize+tableHeaderSize+packFooterSize {
		return nil, errors.New("file is too short for a pack")
	}
	// One read gets the footer and most tables.
	tail := make([]byte, min(size, 64<<10))
	if _, err := r.ReadAt(tail, size-int64(len(tail))); err != nil {
		return nil, readError(err)
	}
	footer, err := decodeFooter(tail[len(tail)-packFooterSize:], size)
	if err != nil {
		return nil, err
	}
	b := tail[:len(tail)-packFooterSize]
	if footer.tableLength <= int64(len(b)) {
		b = b[int64(len(b))-footer.tableLength:]
	} else {
		b = make([]byte, footer.tableLength)
		if _, err := r.ReadAt(b, footer.tableOffset); err != nil {
			return nil, readError(err)
		}
	}
	t, err := decodeTable(b, footer.tableOffset, seal)
	if err != nil {
		return nil, err
	}
	if t.pack != footer.id {
		return nil, errors.New("table does not hash to what the footer says")
	}
	t.size = size
	return t, nil
}

// packWriter writes one pack; for one goroutine at a time.
type packWriter struct {
	disk   disk.Disk
	dir    string // of the store
	target int64
	sealer *crypt.Sealer // of the table
	f      disk.File
	offset int64  // of the next frame
	buf    []byte // written, but not yet to the file
	table  table
}

// packBuffers keeps buffers from one pack to the next.
var packBuffers = sync.Pool{New: func() any {
	b := make([]byte, 0, packWriteSize+2*frameTarget)
	return &b
}}

func (s *Store) newPackWriter() (*packWriter, error) {
	f, err := disk.CreateIn(s.disk, filepath.Join(s.dir, packsName))
	if err != nil {
		return nil, fmt.Errorf("store: new pack: %w", err)
	}
	p := &packWriter{disk: s.disk, dir: s.dir, target: s.packSize, sealer: s.tableSeal, f: f, offset: packHeaderSize,
		table: table{chunkSize: s.config.ChunkSize, created: time.Now().UnixNano(), salt: rand.Uint64()}}
	p.buf = append((*packBuffers.Get().(*[]byte))[:0], packHeader(s.frameSeal)...)
	return p, nil
}

// full reports whether the pack is large enough to be sealed, or has no room for n more chunks.
func (p *packWriter) full(n int) bool {
	return p.offset >= p.target || p.table.slots()+n > maxSlots
}

// add appends a frame.
func (p *packWriter) add(codec Codec, stored []byte, rawLen int, ids []chunker.ID, shorts map[int]int) error {
	first := p.table.slots()
	p.table.frames = append(p.table.frames, frame{offset: p.offset, stored: uint32(len(stored)), raw: uint32(rawLen),
		crc: checksum(stored), first: uint32(first), chunks: uint16(len(ids)), codec: codec})
	for i := range ids {
		p.table.ids = append(p.table.ids, ids[i][:]...)
	}
	for i, n := range shorts {
		if p.table.shorts == nil {
			p.table.shorts = make(map[uint32]uint32)
		}
		p.table.shorts[uint32(first+i)] = uint32(n)
	}
	p.offset += int64(len(stored))
	p.buf = append(p.buf, stored...)
	if len(p.buf) >= packWriteSize {
		return p.flush()
	}
	return nil
}

func (p *packWriter) flush() error {
	if _, err := p.f.Write(p.buf); err != nil {
		return fmt.Errorf("store: write pack: %w", err)
	}
	p.buf = p.buf[:0]
	return nil
}

// seal completes the pack, makes it durable and gives it its name.
func (p *packWriter) seal() (*table, error) {
	b := p.sealer.Seal(nil, p.table.encode(), "")
	footer := packFooter{tableOffset: p.offset, tableLength: int64(len(b)), id: blake3.Sum256(b)}
	p.buf = append(p.buf, b...)
	p.buf = append(p.buf, footer.encode()...)
	if err := p.flush(); err != nil {
		return nil, err
	}
	buf := p.buf
	p.buf = nil
	packBuffers.Put(&buf)
	path := packPath(p.dir, footer.id)
	if err := disk.MoveInto(p.disk, p.f, path, true); err != nil {
		p.disk.Remove(path) // it may have its name already, but nothing may rely on it
		return nil, fmt.Errorf("store: seal pack: %w", err)
	}
	p.table.pack = footer.id
	p.table.size = p.offset + int64(len(b)) + packFooterSize
	return &p.table, nil
}

// abort removes the unfinished pack.
func (p *packWriter) abort() {
	p.f.Close()
	p.disk.Remove(p.f.Name())
}
