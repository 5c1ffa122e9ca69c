package arcstore

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/arcboxlabs/arcstore/store/crypt"
)

// Secret opens an encrypted store: a passphrase, or what is in a key file. It never shows in print, nor in JSON.
type Secret = crypt.Secret

// Passphrase returns a passphrase as a secret. A new one has at least 8 bytes.
func Passphrase(p string) Secret { return crypt.Passphrase(p) }

// NewKeyFile makes a key file, which must not exist, and returns its secret. Without a copy of it, or another secret of
// the store, nothing in the store can be read.
func NewKeyFile(path string) (Secret, error) { return crypt.NewKeyFile(path) }

// ReadKeyFile returns the secret in a key file: ErrKeyFile if it is none.
func ReadKeyFile(path string) (Secret, error) { return crypt.ReadKeyFile(path) }

// KeySlot is one of the secrets that open an encrypted store or bucket, without the secret.
type KeySlot struct {
	ID      string    `json:"id"`
	Kind    string    `json:"kind"` // passphrase or key file
	Label   string    `json:"label,omitempty"`
	Created time.Time `json:"created"`
}

func keySlots(slots []crypt.Slot) []KeySlot {
	out := make([]KeySlot, len(slots))
	for i, s := range slots {
		out[i] = KeySlot{s.ID, s.Kind, s.Label, s.Created}
	}
	return out
}

// Keys are the secrets that open an encrypted store, or bucket. All methods fail with ErrPlain for one that is not.
type Keys interface {
	// List returns them, the oldest first.
	List(ctx context.Context) ([]KeySlot, error)
	// Add adds a secret: ErrExists if it is one of them.
	Add(ctx context.Context, secret Secret, label string) (KeySlot, error)
	// Remove removes one by its ID, or the beginning of it; the last one stays. Who opened the store
	// with it before may have kept the store's key, which does not change.
	Remove(ctx context.Context, id string) (KeySlot, error)
}

// Keys returns the secrets that open the store.
func (m *Manager) Keys() Keys { return storeKeys{m} }

type storeKeys struct{ m *Manager }

func (k storeKeys) List(context.Context) ([]KeySlot, error) {
	e := k.m.store.Config().Encryption
	if e == nil {
		return nil, fmt.Errorf("arcstore: %w", ErrPlain)
	}
	return keySlots(e.Slots), nil
}

func (k storeKeys) Add(_ context.Context, secret Secret, label string) (added KeySlot, err error) {
	slot, err := newSlot(k.m.store.Key(), secret, label)
	if err != nil {
		return added, err
	}
	err = k.m.store.ChangeSlots(func(slots []crypt.Slot) ([]crypt.Slot, error) {
		return append(slots, slot), checkNewSlot(k.m.store.Key(), slots, secret)
	})
	return keySlots([]crypt.Slot{slot})[0], err
}

func (k storeKeys) Remove(_ context.Context, id string) (removed KeySlot, err error) {
	err = k.m.store.ChangeSlots(func(slots []crypt.Slot) ([]crypt.Slot, error) {
		at, err := slotToRemove(slots, id)
		if err != nil {
			return nil, err
		}
		removed = keySlots(slots)[at]
		return slices.Delete(slots, at, at+1), nil
	})
	return removed, err
}

// Keys returns the secrets that open the bucket. They are those that the first store which was pushed from had, and from
// then on the bucket's own.
func (r *Remote) Keys() Keys { return remoteKeys{r} }

type remoteKeys struct{ r *Remote }

func (k remoteKeys) slots(ctx context.Context) ([]crypt.Slot, error) {
	if k.r.r.Key() == nil {
		return nil, fmt.Errorf("arcstore: bucket: %w", ErrPlain)
	}
	slots, err := k.r.r.Slots(ctx)
	return slots, wrapRemote(err)
}

func (k remoteKeys) List(ctx context.Context) ([]KeySlot, error) {
	slots, err := k.slots(ctx)
	return keySlots(slots), err
}

func (k remoteKeys) Add(ctx context.Context, secret Secret, label string) (added KeySlot, err error) {
	slots, err := k.slots(ctx)
	if err != nil {
		return added, err
	}
	if err := checkNewSlot(k.r.r.Key(), slots, secret); err != nil {
		return added, err
	}
	slot, err := newSlot(k.r.r.Key(), secret, label)
	if err != nil {
		return added, err
	}
	return keySlots([]crypt.Slot{slot})[0], wrapRemote(k.r.r.AddSlot(ctx, slot))
}

func (k remoteKeys) Remove(ctx context.Context, id string) (removed KeySlot, err error) {
	slots, err := k.slots(ctx)
	if err != nil {
		return removed, err
	}
	at, err := slotToRemove(slots, id)
	if err != nil {
		return removed, err
	}
	return keySlots(slots)[at], wrapRemote(k.r.r.RemoveSlot(ctx, slots[at].ID))
}

func newSlot(key *crypt.Key, secret Secret, label string) (crypt.Slot, error) {
	if key == nil {
		return crypt.Slot{}, fmt.Errorf("arcstore: %w", ErrPlain)
	}
	slot, err := key.NewSlot(secret, label)
	if err != nil {
		err = fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return slot, err
}

// checkNewSlot refuses a secret that opens a slot already: who removes that one must not find that it still opens the other.
func checkNewSlot(key *crypt.Key, slots []crypt.Slot, secret Secret) error {
	for i := range slots {
		if _, err := crypt.Unlock(key.ID(), slots[i:i+1], secret); err == nil {
			return fmt.Errorf("arcstore: %w: that secret is the key %s", ErrExists, slots[i].ID)
		}
	}
	if len(slots) >= crypt.MaxSlots {
		return fmt.Errorf("arcstore: %w: there are %d keys already: remove one", ErrInvalid, len(slots))
	}
	return nil
}

// slotToRemove finds a slot by the beginning of its ID, unless it is the last one.
func slotToRemove(slots []crypt.Slot, id string) (at int, err error) {
	at = -1
	for i, s := range slots {
		if id == "" || len(id) > len(s.ID) || s.ID[:len(id)] != id {
			continue
		}
		if at >= 0 {
			return 0, fmt.Errorf("arcstore: %w: several keys begin with %q: give more of the ID", ErrInvalid, id)
		}
		at = i
	}
	switch {
	case at < 0:
		return 0, fmt.Errorf("arcstore: %w: no key begins with %q", ErrInvalid, id)
	case len(slots) == 1:
		return 0, fmt.Errorf("arcstore: %w: it is the only key: without it nothing can be read", ErrInvalid)
	}
	return at, nil
}
