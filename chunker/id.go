package chunker

import (
	"encoding/hex"
	"fmt"
	"sync"

	"github.com/zeebo/blake3"
)

// IDSize is the length of an ID in bytes.
const IDSize = 32

// ID names a chunk by its content: the BLAKE3-256 of its bytes. The zero ID
// stands for a hole; no byte string is known to hash to it.
type ID [IDSize]byte

// Sum returns the ID of the chunk b in a store without encryption. It does not look for zeros: the ID of a
// hole is ID{} by definition, not by hashing.
func Sum(b []byte) ID { return blake3.Sum256(b) }

// Hasher names the chunks of an encrypted store, with BLAKE3 under a key: who lacks the key cannot tell whether a
// chunk that he knows is among them. The nil *Hasher is that of a store without encryption. It is safe for concurrent use.
type Hasher struct {
	hashes sync.Pool
}

// NewHasher returns the hasher with a key.
func NewHasher(key [32]byte) *Hasher {
	h, _ := blake3.NewKeyed(key[:]) // fails only for a key of another length
	return &Hasher{sync.Pool{New: func() any { return h.Clone() }}}
}

// Sum returns the ID of the chunk b, as the function does.
func (h *Hasher) Sum(b []byte) (id ID) {
	if h == nil {
		return Sum(b)
	}
	hash := h.hashes.Get().(*blake3.Hasher)
	hash.Reset()
	hash.Write(b)
	hash.Sum(id[:0])
	h.hashes.Put(hash)
	return id
}

// IsHole reports whether the ID stands for an all-zero chunk.
func (id ID) IsHole() bool { return id == ID{} }

// String returns the ID as 64 hexadecimal digits.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// ParseID is the inverse of [ID.String].
func ParseID(s string) (ID, error) {
	var id ID
	if len(s) != 2*IDSize {
		return id, fmt.Errorf("chunker: %q is not a chunk ID: want %d hexadecimal digits", s, 2*IDSize)
	}
	if _, err := hex.Decode(id[:], []byte(s)); err != nil {
		return id, fmt.Errorf("chunker: %q is not a chunk ID: %w", s, err)
	}
	return id, nil
}
