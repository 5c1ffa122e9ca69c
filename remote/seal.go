package remote

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/zeebo/blake3"
)

// version is that of every object which this package writes, and the newest that it reads.
const version = 1

// checksumSize is how many bytes end an object.
const checksumSize = 32

// header is the first line of an object.
const header = "arcstore remote %d\n"

// seal returns the object under key that holds content: the header, content, and the BLAKE3-256 of key, a zero byte and
// all before it. An object under another key than it was written for is as good as damaged.
func seal(key string, content []byte) []byte {
	b := append(fmt.Appendf(nil, header, version), content...)
	return append(b, sum(key, b)...)
}

func sum(key string, b []byte) []byte {
	h := blake3.New()
	h.WriteString(key)
	h.Write([]byte{0})
	h.Write(b)
	return h.Sum(nil)
}

// unseal is the inverse of seal: ErrCorrupt, or ErrVersion. The content is part of b.
func unseal(key string, b []byte) ([]byte, error) {
	at := len(b) - checksumSize
	if at < 0 || !bytes.Equal(sum(key, b[:at]), b[at:]) {
		return nil, fmt.Errorf("remote: %s: %w: it does not hash to its checksum", key, ErrCorrupt)
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

// sealJSON is seal for a value as JSON.
func sealJSON(key string, v any) ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("remote: %s: %w", key, err)
	}
	return seal(key, b), nil
}

// unsealJSON is the inverse of sealJSON.
func unsealJSON(key string, b []byte, v any) error {
	content, err := unseal(key, b)
	if err != nil {
		return err
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
