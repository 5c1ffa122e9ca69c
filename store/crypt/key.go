package crypt

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/zeebo/blake3"
)

// Errors of keys.
var (
	// ErrLocked is the error of opening an encrypted store without a secret.
	ErrLocked = errors.New("the store is encrypted")
	// ErrWrongSecret is the error of a secret that opens none of the slots.
	ErrWrongSecret = errors.New("the passphrase or key file is not one of the store's")
)

// Key is the key of an encrypted store, from which all others are derived. It does not change; any number of
// goroutines may use it. The nil *Key is that of a store without encryption.
type Key struct {
	master [32]byte
}

// NewKey returns a random key.
func NewKey() *Key {
	k := new(Key)
	rand.Read(k.master[:])
	return k
}

// ID names the key without giving it away: 32 hexadecimal digits. That of the nil *Key is "".
func (k *Key) ID() string {
	if k == nil {
		return ""
	}
	id := k.Derive("key ID")
	return hex.EncodeToString(id[:16])
}

// derivation is how all contexts of BLAKE3's key derivation begin here.
const derivation = "github.com/arcboxlabs/arcstore 2026-11-23 "

// Derive returns the key for one purpose. Purposes are constants of the program. The nil *Key must not be asked.
func (k *Key) Derive(purpose string) (key [32]byte) {
	blake3.DeriveKey(derivation+purpose, k.master[:], key[:])
	return key
}

// Sealer returns what seals for one purpose, nil for the nil *Key.
func (k *Key) Sealer(purpose string) *Sealer {
	if k == nil {
		return nil
	}
	return newSealer(k.Derive(purpose))
}

// Authenticate returns a tag over texts that only who has the key can make. Their borders count.
func (k *Key) Authenticate(purpose string, texts ...[]byte) (tag [32]byte) {
	key := k.Derive(purpose)
	h, _ := blake3.NewKeyed(key[:]) // fails only for a key of another length
	for _, t := range texts {
		fmt.Fprintf(h, "%d:", len(t))
		h.Write(t)
	}
	h.Sum(tag[:0])
	return tag
}

// Equal reports whether two keys are the same, or both nil.
func (k *Key) Equal(o *Key) bool {
	if k == nil || o == nil {
		return k == o
	}
	return subtle.ConstantTimeCompare(k.master[:], o.master[:]) == 1
}

// String does not tell the key.
func (k *Key) String() string { return "key " + k.ID() }

// GoString does not, either.
func (k *Key) GoString() string { return k.String() }
