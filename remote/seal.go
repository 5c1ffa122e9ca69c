package remote

import (
	"bytes"
	"crypto/hmac"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/zeebo/blake3"

	"github.com/arcboxlabs/arcstore/store/crypt"
)

// version is that of every object which this package writes, and the newest that it reads.
const version = 1

// checksumSize is how many bytes end an object.
const checksumSize = 32

// header is the first line of an object.
const header = "arcstore remote %d\n"

// sealer seals and opens the objects that are this package's own. The zero sealer is that of a bucket without encryption.
type sealer struct {
	hash *blake3.Hasher // with a key, to be cloned; nil for none
	text *crypt.Sealer  // of what tells something about the snapshots
}

func newSealer(k *crypt.Key) sealer {
	if k == nil {
		return sealer{}
	}
	key := k.Derive("bucket object")
	h, _ := blake3.NewKeyed(key[:]) // fails only for a key of another length
	return sealer{h, k.Sealer("bucket text")}
}

// seal returns the object under key that holds content: the header, content, and the BLAKE3-256 of key, a zero byte and
// all before it, with the key of an encrypted bucket. An object under another key than it was written for is as good as damaged.
func (s sealer) seal(key string, content []byte) []byte {
	b := append(fmt.Appendf(nil, header, version), content...)
	return append(b, s.sum(key, b)...)
}

func (s sealer) sum(key string, b []byte) []byte {
	h := blake3.New()
	if s.hash != nil {
		h = s.hash.Clone()
	}
	h.WriteString(key)
	h.Write([]byte{0})
	h.Write(b)
	return h.Sum(nil)
}

// unseal is the inverse of seal: ErrCorrupt, or ErrVersion. The content is part of b.
func (s sealer) unseal(key string, b []byte) ([]byte, error) {
	at := len(b) - checksumSize
	if at < 0 || !hmac.Equal(s.sum(key, b[:at]), b[at:]) {
		why := "it does not hash to its checksum"
		if s.hash != nil {
			why += ", or who wrote it lacks the key"
		}
		return nil, fmt.Errorf("remote: %s: %w: %s", key, ErrCorrupt, why)
	}
	var v int
	if _, err := fmt.Fscanf(bytes.NewReader(b), header, &v); err != nil {
		return nil, fmt.Errorf("remote: %s: %w: it has no header", key, ErrCorrupt)
	}
	if v > version {
		return nil, fmt.Errorf("remote: %s: %w: it has version %d, this program knows up to %d", key, ErrVersion, v, version)
	}
	return b[bytes.IndexByte(b, '\n')+1 : at], nil
}

// sealJSON is seal for a value as JSON, which is encrypted where there is a key.
func (s sealer) sealJSON(key string, v any) ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("remote: %s: %w", key, err)
	}
	return s.seal(key, s.text.Seal(nil, b, key)), nil
}

// unsealJSON is the inverse of sealJSON.
func (s sealer) unsealJSON(key string, b []byte, v any) error {
	content, err := s.unseal(key, b)
	if err != nil {
		return err
	}
	if content, err = s.text.Open(nil, content, key); err != nil {
		return fmt.Errorf("remote: %s: %w: %w", key, ErrCorrupt, err)
	}
	if err := json.Unmarshal(content, v); err != nil {
		return fmt.Errorf("remote: %s: %w: %w", key, ErrCorrupt, err)
	}
	return nil
}

// Errors of what lies in a bucket.
var (
	ErrCorrupt = errors.New("data is damaged")
	ErrVersion = errors.New("format is newer than this program")
)
