package crypt

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"strings"
)

// Kinds of secrets, as slots name them.
const (
	kindPassphrase = "passphrase"
	kindKeyFile    = "key file"
)

// MinPassphrase is how many bytes a new passphrase has at least.
const MinPassphrase = 8

// Secret opens a slot: a passphrase, or what is in a key file. It never shows in print, nor in JSON.
type Secret struct {
	kind string
	b    []byte
}

// Passphrase returns a passphrase as a secret.
func Passphrase(p string) Secret { return Secret{kindPassphrase, []byte(p)} }

// IsZero reports whether there is no secret.
func (s Secret) IsZero() bool { return s.kind == "" }

// String does not tell the secret.
func (s Secret) String() string { return "secret" }

// GoString does not, either.
func (s Secret) GoString() string { return "secret" }

// MarshalText fails: secrets are not to be written.
func (s Secret) MarshalText() ([]byte, error) {
	return nil, errors.New("crypt: a secret is not to be written")
}

// Disclose returns the secret itself, for another process of the same user that is to know it: a passphrase, or the text of a key file.
func (s Secret) Disclose() (passphrase, keyFile string) {
	if s.kind == kindPassphrase {
		return string(s.b), ""
	}
	return "", encodeKeyFile(s.b)
}

// ParseKeyFile returns the secret in the text of a key file: ErrKeyFile if it is none.
func ParseKeyFile(text string) (Secret, error) {
	key, err := decodeKeyFile(text)
	if err != nil {
		return Secret{}, fmt.Errorf("crypt: %w", err)
	}
	return Secret{kindKeyFile, key}, nil
}

// A key file is one line: what it is, 32 random bytes in hexadecimal digits, and their CRC-32C.
const (
	keyFileBegin = "arcstore-key-1 "
	maxKeyFile   = 1 << 10
)

// ErrKeyFile is the error of a file that is no key file.
var ErrKeyFile = errors.New("it is no key file of arcstore's")

// NewKeyFile makes a key file, which must not exist, and returns its secret. Whoever can read it can read the stores that it
// opens: its mode is 0600.
func NewKeyFile(path string) (Secret, error) {
	var b [32]byte
	rand.Read(b[:])
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return Secret{}, fmt.Errorf("crypt: %w", err)
	}
	_, err = io.WriteString(f, encodeKeyFile(b[:]))
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		os.Remove(path)
		return Secret{}, fmt.Errorf("crypt: %w", err)
	}
	return Secret{kindKeyFile, b[:]}, nil
}

func encodeKeyFile(b []byte) string {
	return fmt.Sprintf("%s%x %08x\n", keyFileBegin, b, keyFileSum(b))
}

func keyFileSum(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }

// ReadKeyFile returns the secret in a key file: ErrKeyFile if it is none.
func ReadKeyFile(path string) (Secret, error) {
	f, err := os.Open(path)
	if err != nil {
		return Secret{}, fmt.Errorf("crypt: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxKeyFile))
	if err != nil {
		return Secret{}, fmt.Errorf("crypt: %w", err)
	}
	key, err := decodeKeyFile(string(b))
	if err != nil {
		return Secret{}, fmt.Errorf("crypt: %s: %w", path, err)
	}
	return Secret{kindKeyFile, key}, nil
}

func decodeKeyFile(text string) ([]byte, error) {
	rest, ok := strings.CutPrefix(strings.TrimSpace(text), keyFileBegin)
	digits, sum, _ := strings.Cut(rest, " ")
	key, err := hex.DecodeString(digits)
	if !ok || err != nil || len(key) != 32 {
		return nil, ErrKeyFile
	}
	if fmt.Sprintf("%08x", keyFileSum(key)) != sum {
		return nil, fmt.Errorf("%w, or was changed: its checksum is wrong", ErrKeyFile)
	}
	return key, nil
}
