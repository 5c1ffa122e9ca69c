package remote

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/arcboxlabs/arcstore/store"
	"github.com/arcboxlabs/arcstore/store/crypt"
)

// maxSlot bounds the object of a slot, in bytes.
const maxSlot = 64 << 10

// unlock finds out the key of the bucket, whose config was read.
func (r *Remote) unlock(ctx context.Context, opts *Options) error {
	config, err := store.DecodeConfig(r.config)
	if err != nil {
		if errors.Is(err, store.ErrCorrupt) {
			return r.foreign("its %s is damaged, or of something else: give an empty prefix", configKey)
		}
		return fmt.Errorf("remote: %s: %s: %w", r.where(), configKey, err)
	}
	there := config.Encryption
	switch {
	case there == nil && opts.Key == nil:
		return nil
	case there == nil:
		return r.foreign("the bucket is not encrypted, and the store is: give an empty prefix")
	case opts.Key != nil && opts.Key.ID() != there.KeyID:
		return r.otherKey()
	}
	key := opts.Key
	if key == nil {
		if key, err = r.ask(ctx, there.KeyID, opts); err != nil {
			return fmt.Errorf("remote: %s: %w", r.where(), err)
		}
	}
	if err := config.Check(key); err != nil {
		return fmt.Errorf("remote: %s: %w: %w", configKey, ErrCorrupt, err)
	}
	r.key, r.sealer = key, newSealer(key)
	return nil
}

// fitsKey reports whether the bucket's key is that of a store.
func (r *Remote) fitsKey(own *crypt.Key) error {
	switch {
	case own.Equal(r.key):
		return nil
	case own == nil:
		return r.foreign("the bucket is encrypted, and the store is not: a store made with init --from-remote has its key")
	}
	return r.otherKey()
}

func (r *Remote) otherKey() error {
	return r.foreign("the bucket is encrypted with another store's key: a store made with init --from-remote has it")
}

// ask opens one of the bucket's slots.
func (r *Remote) ask(ctx context.Context, keyID string, opts *Options) (*crypt.Key, error) {
	if opts.Secret == nil {
		return nil, crypt.ErrLocked
	}
	secret, err := opts.Secret()
	if err != nil {
		return nil, err
	}
	slots, err := r.Slots(ctx)
	if err != nil {
		return nil, err
	}
	return crypt.Unlock(keyID, slots, secret)
}

// Key returns the bucket's key; nil where it is not encrypted.
func (r *Remote) Key() *crypt.Key { return r.key }

// Slots returns what the bucket's key is kept in, sorted by age.
func (r *Remote) Slots(ctx context.Context) ([]crypt.Slot, error) {
	keys, err := r.list(ctx, keysPrefix)
	if err != nil {
		return nil, fmt.Errorf("list keys: %w", err)
	}
	var slots []crypt.Slot
	for _, key := range keys[:min(len(keys), crypt.MaxSlots)] {
		b, err := r.bucket.Read(ctx, key, maxSlot)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", key, err)
		}
		var s crypt.Slot
		if err := (sealer{}).unsealJSON(key, b, &s); err == nil && slotKey(s.ID) == key { // what is damaged opens nothing
			slots = append(slots, s)
		}
	}
	slices.SortStableFunc(slots, func(a, b crypt.Slot) int { return a.Created.Compare(b.Created) })
	return slots, nil
}

// AddSlot adds a slot that keeps the bucket's key.
func (r *Remote) AddSlot(ctx context.Context, s crypt.Slot) error {
	b, err := sealer{}.sealJSON(slotKey(s.ID), s) // it proves itself
	if err != nil {
		return err
	}
	return r.put(ctx, slotKey(s.ID), b)
}

// RemoveSlot removes a slot.
func (r *Remote) RemoveSlot(ctx context.Context, id string) error {
	if err := r.bucket.Delete(ctx, slotKey(id)); err != nil {
		return fmt.Errorf("remote: delete %s: %w", slotKey(id), err)
	}
	return nil
}

// found makes an empty bucket a remote, with the config and the key of a store.
func (r *Remote) found(ctx context.Context, from *store.Store) error {
	_, err := r.bucket.Read(ctx, configKey, maxConfig)
	if errors.Is(err, ErrNoObject) {
		err = r.putConfig(ctx, from)
	}
	if err != nil {
		return fmt.Errorf("remote: %w", err)
	}
	// Of two hosts that do this at once, the one that was faster, or on some servers slower, has it its way.
	if r.config, err = r.bucket.Read(ctx, configKey, maxConfig); err != nil {
		return fmt.Errorf("remote: %w", err)
	}
	if err := r.unlock(ctx, &Options{Key: from.Key()}); err != nil {
		return err
	}
	return r.checkCache()
}

func (r *Remote) putConfig(ctx context.Context, from *store.Store) error {
	config := from.Config()
	if config.Encryption != nil {
		// The slots come first: a bucket with a config can be opened.
		for _, s := range config.Encryption.Slots {
			if err := r.AddSlot(ctx, s); err != nil {
				return err
			}
		}
		config = config.Encrypt(from.Key(), nil)
	}
	b, err := store.EncodeConfig(config)
	if err != nil {
		return err
	}
	return r.put(ctx, configKey, b)
}
