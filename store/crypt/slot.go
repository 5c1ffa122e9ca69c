package crypt

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/zeebo/blake3"
	"golang.org/x/crypto/argon2"
)

// Argon2id's costs for new slots: the second of the choices that RFC 9106 recommends.
const (
	argonPasses  = 3
	argonMemory  = 64 << 10 // KiB
	argonThreads = 4
)

// Bounds of what a slot may demand: who wrote it may not mean well.
const (
	maxPasses = 64
	maxMemory = 4 << 20 // KiB
	// MaxSlots bounds how many slots a store has.
	MaxSlots = 64
)

// Slot keeps a store's key under a secret. It may be known to anybody.
type Slot struct {
	ID      string    `json:"id"`   // 16 hexadecimal digits, random
	Kind    string    `json:"kind"` // of the secret: passphrase, or key file
	Label   string    `json:"label,omitempty"`
	Created time.Time `json:"created"`
	Salt    []byte    `json:"salt"`
	Passes  uint32    `json:"passes,omitempty"`     // of Argon2id, for a passphrase,
	Memory  uint32    `json:"memory_kib,omitempty"` // KiB,
	Threads uint8     `json:"threads,omitempty"`
	Key     []byte    `json:"key"` // sealed
}

// NewSlot returns a slot that keeps the key under secret.
func (k *Key) NewSlot(secret Secret, label string) (Slot, error) {
	if secret.kind == kindPassphrase && len(secret.b) < MinPassphrase {
		return Slot{}, fmt.Errorf("crypt: a passphrase has at least %d characters", MinPassphrase)
	}
	if secret.IsZero() {
		return Slot{}, fmt.Errorf("crypt: a passphrase or a key file is needed")
	}
	var id [8]byte
	rand.Read(id[:])
	s := Slot{ID: hex.EncodeToString(id[:]), Kind: secret.kind, Label: label, Created: time.Now().UTC().Truncate(time.Second), Salt: make([]byte, 32)}
	rand.Read(s.Salt)
	if s.Kind == kindPassphrase {
		s.Passes, s.Memory, s.Threads = argonPasses, argonMemory, argonThreads
	}
	s.Key = s.sealer(secret).Seal(nil, k.master[:], s.context(k.ID()))
	return s, nil
}

// check refuses slots that cannot be opened, or should not be tried.
func (s *Slot) check() error {
	ok := len(s.Key) == 32+Overhead && len(s.Salt) >= 16
	switch s.Kind {
	case kindPassphrase:
		ok = ok && s.Passes > 0 && s.Passes <= maxPasses && s.Memory > 0 && s.Memory <= maxMemory && s.Threads > 0
	case kindKeyFile:
	default:
		ok = false
	}
	if b, err := hex.DecodeString(s.ID); err != nil || len(b) != 8 || !ok {
		return fmt.Errorf("crypt: key %q: it is none that this program knows", s.ID)
	}
	return nil
}

// context is all of the slot but the key, so that nobody changes it, and the key's ID.
func (s *Slot) context(keyID string) string {
	c := *s
	c.Key = nil
	b, _ := json.Marshal(c) // fails only for a time that is none
	return keyID + string(b)
}

// sealer returns what seals the key under a secret of the slot's kind.
func (s *Slot) sealer(secret Secret) *Sealer {
	var key [32]byte
	if s.Kind == kindPassphrase {
		copy(key[:], argon2.IDKey(secret.b, s.Salt, s.Passes, s.Memory, s.Threads, 32))
		debug.FreeOSMemory() // tens of megabytes that are not needed again
	} else {
		blake3.DeriveKey(derivation+"key file", append(append([]byte(nil), s.Salt...), secret.b...), key[:])
	}
	return newSealer(key)
}

// Unlock returns the key of that ID, which one of the slots keeps under the secret: ErrLocked without a
// secret, ErrWrongSecret.
func Unlock(keyID string, slots []Slot, secret Secret) (*Key, error) {
	if secret.IsZero() {
		return nil, fmt.Errorf("crypt: %w", ErrLocked)
	}
	for i := range slots {
		s := &slots[i]
		if s.check() != nil || s.Kind != secret.kind {
			continue
		}
		b, err := s.sealer(secret).Open(nil, s.Key, s.context(keyID))
		if err != nil {
			continue
		}
		if k := (&Key{master: [32]byte(b)}); k.ID() == keyID {
			return k, nil
		}
	}
	return nil, fmt.Errorf("crypt: %w", ErrWrongSecret)
}
