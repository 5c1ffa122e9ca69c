package arcstore

import (
	"context"
	"errors"
	"fmt"

	"github.com/arcboxlabs/arcstore/manifest"
)

// setStates makes Invalid what is damaged of entries, and Ready what is not
// anymore. A read-only Manager takes the lock for that, if nobody has it: it does not wait.
func (m *Manager) setStates(ctx context.Context, entries []*Snapshot, damaged func(*Snapshot) bool) error {
	var wrong []*Snapshot
	for _, e := range entries {
		if e.State != manifest.Creating && (e.State == manifest.Invalid) != damaged(e) {
			wrong = append(wrong, e)
		}
	}
	if len(wrong) == 0 || m.distant { // a bucket takes no notes, and the lock would be one of a directory here
		return nil
	}
	if m.readOnly {
		unlock, err := m.store.Lock(ctx, "arcstore verify")
		if errors.Is(err, ErrInUse) {
			return fmt.Errorf("arcstore: the states of snapshots were left as they are: %w", err)
		}
		if err != nil {
			return err
		}
		defer unlock()
	}
	for _, e := range wrong {
		state := manifest.Ready
		if damaged(e) {
			state = manifest.Invalid
		}
		if err := m.updateEntry(ctx, e.ID, func(now *Snapshot) {
			if now.State != manifest.Creating && now.Manifest == e.Manifest {
				now.State = state
			}
		}); err != nil {
			return err
		}
		e.State = state
	}
	return nil
}

// recheck looks whether snapshots that are Invalid are whole again, by what is known of the store.
func (m *Manager) recheck(ctx context.Context) error {
	entries, err := m.list(ctx)
	if err != nil {
		return err
	}
	var invalid []*Snapshot
	var digests []manifest.Digest
	for _, e := range entries {
		if e.State == manifest.Invalid && e.Manifest != (manifest.Digest{}) {
			invalid = append(invalid, e)
			digests = append(digests, e.Manifest)
		}
	}
	if len(invalid) == 0 {
		return nil
	}
	live, gaps := m.liveOf(digests, nil)
	c, err := m.store.Census(ctx, live)
	if err != nil {
		return err
	}
	whole := make(map[string]bool)
	for i, e := range invalid {
		whole[e.ID] = c.Groups[i].Lacks == 0 && !gaps[i]
	}
	return m.setStates(ctx, invalid, func(e *Snapshot) bool { return !whole[e.ID] })
}
