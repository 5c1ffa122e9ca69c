package manifest

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"

	"github.com/arcboxlabs/arcstore/chunker"
	"github.com/arcboxlabs/arcstore/store/crypt"
)

const (
	// MaxDepth bounds how many ancestors reading a page table walks.
	MaxDepth = 32

	rootFixed   = 64 // bytes before the streams
	streamFixed = 15 // bytes of a stream besides its name and leaves
	leafEntry   = 52 // leaf number (8), offset (8), length (4), hash (32)

	maxStreams    = 1 << 20
	maxStreamSize = 1 << 60   // bytes
	maxRoot       = 256 << 20 // bytes, without what encryption adds: the leaves of 80 TiB in chunks of 4 KiB, all of them data
)

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

// leafPlace is an entry of a leaf directory.
type leafPlace struct {
	number int64
	offset int64 // in the file
	length int64
	hash   []byte
}

func (p *leafPlace) end() int64 { return p.offset + p.length }

// leafCount returns how many leaves the stream has.
func (s *rootStream) leafCount() int { return len(s.leaves) / leafEntry }

func (s *rootStream) place(i int) leafPlace {
	le := binary.LittleEndian
	e := s.leaves[i*leafEntry:][:leafEntry]
	return leafPlace{int64(le.Uint64(e)), int64(le.Uint64(e[8:])), int64(le.Uint32(e[16:])), e[20:]}
}

func (s *rootStream) addPlace(p leafPlace) {
	le := binary.LittleEndian
	s.leaves = le.AppendUint64(s.leaves, uint64(p.number))
	s.leaves = le.AppendUint64(s.leaves, uint64(p.offset))
	s.leaves = le.AppendUint32(s.leaves, uint32(p.length))
	s.leaves = append(s.leaves, p.hash...)
}

// find returns the index of the first leaf whose number is not below number.
func (s *rootStream) find(number int64) int {
	return sort.Search(s.leafCount(), func(i int) bool {
		return binary.LittleEndian.Uint64(s.leaves[i*leafEntry:]) >= uint64(number)
	})
}

// leaf returns a leaf's place, if the stream has it, and its index.
func (s *rootStream) leaf(number int64) (p leafPlace, i int, ok bool) {
	if i = s.find(number); i < s.leafCount() {
		p = s.place(i)
	}
	return p, i, i < s.leafCount() && p.number == number
}

// leafChunksAt returns how many entries of a stream of n lie in one of its leaves.
func leafChunksAt(n, number int64) int {
	return int(max(0, min(leafChunks, n-number*leafChunks)))
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
		b = le.AppendUint32(b, uint32(s.leafCount()))
		b = append(b, s.leaves...)
	}
	return b
}

// decodeRoot parses the root of a file whose leaves end at offset end, as
// encode writes it and no other way. It keeps b.
func decodeRoot(b []byte, end int64) (*root, error) {
	le := binary.LittleEndian
	if len(b) < 4 {
		return nil, errors.New("its root is too short")
	}
	if err := checkVersion(le.Uint32(b)); err != nil {
		return nil, err
	}
	if len(b) < rootFixed {
		return nil, errors.New("its root is too short")
	}
	r := &root{chunkSize: int(le.Uint32(b[4:])), depth: int(le.Uint32(b[8:])), parent: Digest(b[12:]),
		chainBytes: int64(le.Uint64(b[44:])), baseBytes: int64(le.Uint64(b[52:]))}
	if chunker.CheckChunkSize(r.chunkSize) != nil {
		return nil, errors.New("its root has an impossible chunk size")
	}
	if r.depth > MaxDepth || (r.depth == 0) != (r.parent == Digest{}) {
		return nil, errors.New("its root says that it has too many ancestors, or both some and none")
	}
	if err := r.checkSums(end - headerSize); err != nil {
		return nil, err
	}
	n := int64(le.Uint32(b[60:]))
	b = b[rootFixed:]
	if n > maxStreams || n > int64(len(b)/streamFixed) {
		return nil, errors.New("its root counts more streams than it holds")
	}
	r.streams = make([]rootStream, 0, n)
	for range n {
		var s rootStream
		var err error
		if s, b, err = decodeStream(b, r); err != nil {
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
	return r, r.checkPlaces(end)
}

// checkSums checks what the root says of the bytes of leaves, its own being own bytes.
func (r *root) checkSums(own int64) error {
	ok := r.chainBytes >= own && r.baseBytes >= 0
	if r.depth == 0 {
		ok = r.chainBytes == 0 && r.baseBytes == own
	}
	if !ok {
		return errors.New("its root has wrong sums of the leaves' lengths")
	}
	return nil
}

// decodeStream parses one stream and returns the rest of b.
func decodeStream(b []byte, r *root) (s rootStream, rest []byte, err error) {
	le := binary.LittleEndian
	bad := errors.New("a stream in its root is malformed")
	if len(b) < 2 {
		return s, nil, bad
	}
	n := int(le.Uint16(b))
	if len(b) < n+streamFixed {
		return s, nil, bad
	}
	s.Name = string(b[2 : 2+n])
	b = b[2+n:]
	if err := checkName(s.Name); err != nil {
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
	count := chunks(chunks(s.Size, r.chunkSize), leafChunks)
	before := leafPlace{number: -1}
	for i := range s.leafCount() {
		p := s.place(i)
		if p.number <= before.number || p.number >= count || p.length < 4 || p.length > maxLeaf+crypt.Overhead {
			return s, nil, bad
		}
		if i > 0 && p.offset != before.end() || p.offset < headerSize || p.offset > 1<<62 {
			return s, nil, errors.New("the leaves of a stream in its root do not follow each other")
		}
		before = p
	}
	return s, rest, nil
}

// checkPlaces checks that the leaves fill the file up to end, without gaps or
// overlaps. Within each stream they follow each other already.
func (r *root) checkPlaces(end int64) error {
	type span struct{ from, to int64 }
	var spans []span
	for i := range r.streams {
		if s := &r.streams[i]; s.leafCount() > 0 {
			first, last := s.place(0), s.place(s.leafCount()-1)
			spans = append(spans, span{first.offset, last.end()})
		}
	}
	slices.SortFunc(spans, func(a, b span) int { return cmp.Compare(a.from, b.from) })
	at := int64(headerSize)
	for _, s := range spans {
		if s.from != at {
			return errors.New("the leaves in its root overlap, or leave gaps")
		}
		at = s.to
	}
	if at != end {
		return errors.New("the leaves in its root do not fill it")
	}
	return nil
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
	for dir := range dirsOf(name) {
		at := sort.Search(len(streams), func(i int) bool { return streams[i].Name >= dir })
		if at < len(streams) && streams[at].Name == dir {
			return fmt.Errorf("the stream name %q makes a directory of %q, which is a stream too", name, dir)
		}
	}
	return nil
}

// dirsOf yields the directories that a stream name implies, the innermost first.
func dirsOf(name string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for i := strings.LastIndexByte(name, '/'); i >= 0; i = strings.LastIndexByte(name[:i], '/') {
			if !yield(name[:i]) {
				return
			}
		}
	}
}
