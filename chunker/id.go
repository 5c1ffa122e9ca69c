package chunker

import (
	"encoding/hex"
	"fmt"

	"github.com/zeebo/blake3"
)

// IDSize is the length of an ID in bytes.
const IDSize = 32

// ID names a chunk by its content: the BLAKE3-256 of its bytes. The zero ID
// stands for a hole; no byte string is known to hash to it.
type ID [IDSize]byte

// Sum returns the ID of the chunk b. It does not look for zeros: the ID of a
// hole is ID{} by definition, not by hashing.
func Sum(b []byte) ID { return blake3.Sum256(b) }

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
