package store

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/arcboxlabs/arcstore/chunker"
	"github.com/arcboxlabs/arcstore/store/crypt"
)

// Encryption is what the config of an encrypted store says of its key.
type Encryption struct {
	KeyID string       `json:"key_id"`          // that all stores which share a bucket have in common
	Slots []crypt.Slot `json:"slots,omitempty"` // each opens the store
	Tag   string       `json:"tag"`             // proves the rest of the config
}

// What the key of a store is used for. These are part of the format.
const (
	chunkPurpose  = "chunk ID"
	framePurpose  = "pack frame"
	tablePurpose  = "pack table"
	configPurpose = "config"
)

// Unlock returns the key: crypt.ErrLocked without a secret, crypt.ErrWrongSecret.
func (e *Encryption) Unlock(secret crypt.Secret) (*crypt.Key, error) {
	return crypt.Unlock(e.KeyID, e.Slots, secret)
}

// tagged returns what the tag proves: the config without slots, which prove themselves.
func (c Config) tagged() []byte {
	e := *c.Encryption
	e.Slots, e.Tag = nil, ""
	c.Encryption = &e
	b, _ := json.Marshal(c) // fails only for a time that is none
	return b
}

// Encrypt returns the config of a store with a key.
func (c Config) Encrypt(key *crypt.Key, slots []crypt.Slot) Config {
	c.Encryption = &Encryption{KeyID: key.ID(), Slots: slots}
	return c.prove(key)
}

// prove renews the tag, after a change.
func (c Config) prove(key *crypt.Key) Config {
	if c.Encryption == nil {
		return c
	}
	e := *c.Encryption
	tag := key.Authenticate(configPurpose, c.tagged())
	e.Tag = hex.EncodeToString(tag[:])
	c.Encryption = &e
	return c
}

// Check reports whether the config was written with the key, which is nil for a store without encryption.
func (c Config) Check(key *crypt.Key) error {
	switch {
	case c.Encryption == nil && key == nil:
		return nil
	case c.Encryption == nil:
		return fmt.Errorf("%w: it says that the store is not encrypted", crypt.ErrTampered)
	case key == nil:
		return crypt.ErrLocked
	case c.Encryption.KeyID != key.ID() || c.prove(key).Encryption.Tag != c.Encryption.Tag:
		return crypt.ErrTampered
	}
	return nil
}

// unlock makes what depends on the key.
func (s *Store) unlock(ask func(*Encryption) (*crypt.Key, error)) error {
	e := s.config.Encryption
	if e == nil {
		return nil
	}
	if ask == nil {
		return fmt.Errorf("store: %s: %w", s.dir, crypt.ErrLocked)
	}
	key, err := ask(e)
	if err != nil {
		return fmt.Errorf("store: %s: %w", s.dir, err)
	}
	if err := s.config.Check(key); err != nil {
		return fmt.Errorf("store: %s: %s: %w", s.dir, configName, err)
	}
	s.key, s.hasher = key, chunker.NewHasher(key.Derive(chunkPurpose))
	s.frameSeal, s.tableSeal = key.Sealer(framePurpose), key.Sealer(tablePurpose)
	return nil
}

// Key returns the store's key; nil for a store without encryption.
func (s *Store) Key() *crypt.Key { return s.key }

// Hasher names the store's chunks.
func (s *Store) Hasher() *chunker.Hasher { return s.hasher }

// ChangeSlots changes the slots of an encrypted store, now and for later processes.
func (s *Store) ChangeSlots(change func([]crypt.Slot) ([]crypt.Slot, error)) error {
	return s.changeConfig(func(c *Config) (err error) {
		if c.Encryption == nil {
			return fmt.Errorf("store: %s: %w", s.dir, ErrPlain)
		}
		e := *c.Encryption
		e.Slots, err = change(slices.Clone(e.Slots))
		c.Encryption = &e
		return err
	})
}
