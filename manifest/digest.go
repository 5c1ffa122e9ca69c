package manifest

import (
	"encoding/hex"
	"fmt"

	"github.com/zeebo/blake3"
)

// Digest names a manifest: the BLAKE3-256 of its root as it stands in the file, which holds the hash
// of each leaf, likewise, and the parent's digest.
type Digest [32]byte

func digestOf(root []byte) Digest { return blake3.Sum256(root) }

// String returns the digest as 64 hexadecimal digits.
func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// ParseDigest is the inverse of String.
func ParseDigest(s string) (Digest, error) {
	var d Digest
	// Upper case would make two names of one file.
	if _, err := hex.Decode(d[:], []byte(s[:min(len(s), 2*len(d))])); err != nil || d.String() != s {
		return Digest{}, fmt.Errorf("manifest: %w digest %q", ErrInvalid, s)
	}
	return d, nil
}

// MarshalText implements encoding.TextMarshaler; the zero digest is empty.
func (d Digest) MarshalText() ([]byte, error) {
	if d == (Digest{}) {
		return nil, nil
	}
	return []byte(d.String()), nil
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Digest) UnmarshalText(b []byte) (err error) {
	if len(b) == 0 {
		*d = Digest{}
		return nil
	}
	*d, err = ParseDigest(string(b))
	return err
}
