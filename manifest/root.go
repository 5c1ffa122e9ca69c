package manifest

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"sort"
	"strings"

	"github.com/zeebo/blake3"

	"github.com/arcboxlabs/arcstore/chunker"
)

const (
	fileMagic   = "arcmanif"
	fileVersion = 1
	headerSize  = 16
	footerSize  = 32
	leafEntry   = 52 // leaf number (8), offset (8), length (4), hash (32)

	// MaxDepth bounds how many ancestors reading a page table walks.
	MaxDepth = 32

	maxStreams    = 1 << 20
	maxStreamSize = 1 << 60 // bytes
)

// Digest names a manifest: the BLAKE3-256 of its root, which holds the hash
// of each leaf and the parent's digest.
type Digest [32]byte

// String returns the digest as 64 hexadecimal digits.
func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// ParseDigest is the inverse of String.
func ParseDigest(s string) (d Digest, err error) { return d, d.UnmarshalText([]byte(s)) }

// MarshalText implements encoding.TextMarshaler; the zero digest is empty.
func (d Digest) MarshalText() ([]byte, error) {
	if d == (Digest{}) {
		return nil, nil
	}
	return []byte(d.String()), nil
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Digest) UnmarshalText(b []byte) error {
	if len(b) == 0 {
		*d = Digest{}
		return nil
	}
	if len(b) != 2*len(d) {
		return fmt.Errorf("manifest: %w digest %q", ErrInvalid, b)
	}
	if _, err := hex.Decode(d[:], b); err != nil {
		return fmt.Errorf("manifest: %w digest %q", ErrInvalid, b)
	}
	return nil
}

// Stream is a named byte sequence of a snapshot.
type Stream struct {
	Name string
	Size int64 // bytes
}

// chunks returns how many chunks a stream of size bytes has.
func chunks(size int64, chunkSize int) int64 {
	return (size + int64(chunkSize) - 1) / int64(chunkSize)
}

// root is the decoded root of one manifest: one layer of page tables.
type root struct {
	chunkSize  int
	depth      int    // ancestors below it; 0 for a full one
	parent     Digest // if depth > 0
	chainBytes int64  // of the leaves of this layer and those below, but for the full one's
	baseBytes  int64  // of the full one's leaves
	streams    []rootStream
}

// rootStream is a stream in a root.
type rootStream struct {
	Stream
	based  bool   // on the parent's stream of the same name
	leaves []byte // leafEntry bytes each, by leaf number
}

// leaf returns the place of a leaf, if the stream has it.
func (s *rootStream) leaf(number int64) (offset int64, length int, hash []byte, ok bool) {
	n := len(s.leaves) / leafEntry
	i := sort.Search(n, func(i int) bool {
		return binary.LittleEndian.Uint64(s.leaves[i*leafEntry:]) >= uint64(number)
	})
	if i == n {
		return 0, 0, nil, false
	}
	e := s.leaves[i*leafEntry:][:leafEntry]
	if binary.LittleEndian.Uint64(e) != uint64(number) {
		return 0, 0, nil, false
	}
	return int64(binary.LittleEndian.Uint64(e[8:])), int(binary.LittleEndian.Uint32(e[16:])), e[20:], true
}

func (r *root) stream(name string) *rootStream {
	i := sort.Search(len(r.streams), func(i int) bool { return r.streams[i].Name >= name })
	if i < len(r.streams) && r.streams[i].Name == name {
		return &r.streams[i]
	}
	return nil
}

// encode returns the root's bytes. Streams are sorted by name.
func (r *root) encode() []byte {
	le := binary.LittleEndian
	b := le.AppendUint32(nil, fileVersion)
	b = le.AppendUint32(b, uint32(r.chunkSize))
	b = le.AppendUint32(b, uint32(r.depth))
	b = append(b, r.parent[:]...)
	b = le.AppendUint64(b, uint64(r.chainBytes))
	b = le.AppendUint64(b, uint64(r.baseBytes))
	b = le.AppendUint32(b, uint32(len(r.streams)))
	for i := range r.streams {
		s := &r.streams[i]
		b = le.AppendUint16(b, uint16(len(s.Name)))
		b = append(b, s.Name...)
		b = le.AppendUint64(b, uint64(s.Size))
		based := byte(0)
		if s.based {
			based = 1
		}
		b = append(b, based)
		b = le.AppendUint32(b, uint32(len(s.leaves)/leafEntry))
		b = append(b, s.leaves...)
	}
	return b
}

// decodeRoot parses a root whose leaves lie between headerSize and end. It keeps b.
func decodeRoot(b []byte, end int64) (*root, error) {
	le := binary.LittleEndian
	if len(b) < 4 {
		return nil, errors.New("its root is too short")
	}
	if v := le.Uint32(b); v != fileVersion {
		if v > fileVersion {
			return nil, fmt.Errorf("%w: the manifest has format %d, this program knows up to %d", ErrVersion, v, fileVersion)
		}
		return nil, errors.New("its root has no version")
	}
	if len(b) < 64 {
		return nil, errors.New("its root is too short")
	}
	r := &root{chunkSize: int(le.Uint32(b[4:])), depth: int(le.Uint32(b[8:])), parent: Digest(b[12:]),
		chainBytes: int64(le.Uint64(b[44:])), baseBytes: int64(le.Uint64(b[52:]))}
	if err := chunker.CheckChunkSize(r.chunkSize); err != nil {
		return nil, err
	}
	if r.depth > MaxDepth || (r.depth == 0) != (r.parent == Digest{}) || r.chainBytes < 0 || r.baseBytes < 0 {
		return nil, errors.New("its root says that it has too many ancestors, or both some and none")
	}
	n := int64(le.Uint32(b[60:]))
	b = b[64:]
	const least = 2 + 1 + 8 + 1 + 4 // bytes a stream
	if n > int64(len(b)/least) {
		return nil, errors.New("its root counts more streams than it holds")
	}
	r.streams = make([]rootStream, 0, n)
	for range n {
		var s rootStream
		var err error
		if s, b, err = decodeStream(b, r, end); err != nil {
			return nil, err
		}
		if err := follows(r.streams, s.Name); err != nil {
			return nil, err
		}
		r.streams = append(r.streams, s)
	}
	if len(b) != 0 {
		return nil, errors.New("its root is too long")
	}
	return r, nil
}

// decodeStream parses one stream and returns the rest of b.
func decodeStream(b []byte, r *root, end int64) (s rootStream, rest []byte, err error) {
	le := binary.LittleEndian
	bad := errors.New("a stream in its root is malformed")
	if len(b) < 2 {
		return s, nil, bad
	}
	n := int(le.Uint16(b))
	if len(b) < 2+n+13 {
		return s, nil, bad
	}
	s.Name = string(b[2 : 2+n])
	b = b[2+n:]
	if err := ValidName(s.Name); err != nil {
		return s, nil, err
	}
	s.Size, s.based = int64(le.Uint64(b)), b[8] == 1
	leaves := int64(le.Uint32(b[9:]))
	if s.Size < 0 || s.Size > maxStreamSize || b[8] > 1 || (s.based && r.depth == 0) {
		return s, nil, bad
	}
	b = b[13:]
	if leaves > int64(len(b)/leafEntry) {
		return s, nil, bad
	}
	s.leaves, rest = b[:leaves*leafEntry:leaves*leafEntry], b[leaves*leafEntry:]
	count := (chunks(s.Size, r.chunkSize) + leafChunks - 1) / leafChunks
	last := int64(-1)
	for e := s.leaves; len(e) > 0; e = e[leafEntry:] {
		number, offset, length := int64(le.Uint64(e)), int64(le.Uint64(e[8:])), int64(le.Uint32(e[16:]))
		if number <= last || number >= count || length < 4 || length > maxLeaf || offset < headerSize || offset > end-length {
			return s, nil, bad
		}
		last = number
	}
	return s, rest, nil
}

// follows returns an error if a stream of that name cannot come after the
// others: names are sorted, and none is a directory of another.
func follows(streams []rootStream, name string) error {
	if len(streams) == 0 {
		return nil
	}
	if before := streams[len(streams)-1].Name; before >= name {
		return errors.New("the streams in its root are not sorted")
	}
	for dir := name; ; {
		i := strings.LastIndexByte(dir, '/')
		if i < 0 {
			return nil
		}
		dir = dir[:i]
		at := sort.Search(len(streams), func(i int) bool { return streams[i].Name >= dir })
		if at < len(streams) && streams[at].Name == dir {
			return fmt.Errorf("%w: the stream name %q makes a directory of %q, which is a stream too", ErrInvalid, name, dir)
		}
	}
}

func digestOf(root []byte) Digest { return blake3.Sum256(root) }

var crcTable = crc32.MakeTable(crc32.Castagnoli)

func fileHeader() []byte {
	b := append([]byte(nil), fileMagic...)
	b = binary.LittleEndian.AppendUint32(b, fileVersion)
	return binary.LittleEndian.AppendUint32(b, 0)
}

// encodeFooter returns the end of a manifest file: where its root is.
func encodeFooter(offset, length int64) []byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(offset))
	b = binary.LittleEndian.AppendUint64(b, uint64(length))
	b = binary.LittleEndian.AppendUint32(b, fileVersion)
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, crcTable))
	return append(b, fileMagic...)
}

// decodeFooter parses the last footerSize bytes of a file of size bytes.
func decodeFooter(b []byte, size int64) (offset, length int64, err error) {
	le := binary.LittleEndian
	if len(b) != footerSize || string(b[24:]) != fileMagic {
		return 0, 0, errors.New("it has no footer")
	}
	if v := le.Uint32(b[16:]); v > fileVersion {
		return 0, 0, fmt.Errorf("%w: the manifest has format %d, this program knows up to %d", ErrVersion, v, fileVersion)
	}
	if le.Uint32(b[20:]) != crc32.Checksum(b[:20], crcTable) {
		return 0, 0, errors.New("its footer has a wrong checksum")
	}
	offset, length = int64(le.Uint64(b)), int64(le.Uint64(b[8:]))
	if offset < headerSize || length < 0 || length > size || offset != size-footerSize-length {
		return 0, 0, errors.New("its footer does not fit its size")
	}
	return offset, length, nil
}
