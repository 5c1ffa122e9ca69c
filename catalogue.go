package arcstore

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/arcboxlabs/arcstore/manifest"
)

const latestSuffix = "@latest"

// list returns every entry. One that is damaged does not hide the others: of it there is the ID, and
// that it is Invalid.
func (m *Manager) list(ctx context.Context) ([]*Snapshot, error) {
	entries, err := m.catalogue.List(ctx)
	bad := manifest.CorruptErrors(err)
	if err != nil && bad == nil {
		return nil, wrapManifest(err)
	}
	var unreadable []*Snapshot
	for _, b := range bad {
		unreadable = append(unreadable, &Snapshot{ID: strings.TrimSuffix(b.File, path.Ext(b.File)), State: manifest.Invalid})
	}
	return append(unreadable, entries...), nil
}

// List returns the snapshots of target, or all for "", oldest first.
func (m *Manager) List(ctx context.Context, target string) ([]*Snapshot, error) {
	entries, err := m.list(ctx)
	if err != nil || target == "" {
		return entries, err
	}
	var out []*Snapshot
	for _, e := range entries {
		if e.TargetID == target {
			out = append(out, e)
		}
	}
	return out, nil
}

// Get resolves ref: an ID, a unique prefix of one, or TARGET@latest, which is
// the target's newest ready snapshot, or the newest damaged one where none is ready.
func (m *Manager) Get(ctx context.Context, ref string) (*Snapshot, error) {
	if ref == "" {
		return nil, fmt.Errorf("arcstore: %w: the ID is empty", ErrNotFound)
	}
	if manifest.ValidID(ref) == nil {
		e, err := m.catalogue.Get(ctx, ref)
		if err == nil {
			return e, nil
		}
		if !errors.Is(err, manifest.ErrNotFound) {
			return nil, wrapManifest(err)
		}
	}
	entries, err := m.list(ctx)
	if err != nil {
		return nil, err
	}
	if target, ok := strings.CutSuffix(ref, latestSuffix); ok {
		if e := latest(entries, target, manifest.Ready); e != nil {
			return e, nil
		}
		if e := latest(entries, target, manifest.Invalid); e != nil {
			return e, nil
		}
		return nil, fmt.Errorf("arcstore: %w: target %q has no ready snapshot", ErrNotFound, target)
	}
	var found []*Snapshot
	for _, e := range entries {
		if strings.HasPrefix(e.ID, ref) {
			found = append(found, e)
		}
	}
	switch len(found) {
	case 0:
		if slices.ContainsFunc(entries, func(e *Snapshot) bool { return e.TargetID == ref }) {
			return nil, fmt.Errorf("arcstore: %w: %s is a target, and no ID: its newest snapshot is %s%s", ErrNotFound, ref, ref, latestSuffix)
		}
		return nil, fmt.Errorf("arcstore: %w: no ID begins with %q", ErrNotFound, ref)
	case 1:
		return found[0], nil
	}
	return nil, fmt.Errorf("arcstore: %w: %d snapshots begin with %q, such as %s and %s; give more of the ID",
		ErrAmbiguous, len(found), ref, found[0].ID, found[1].ID)
}

// getComplete is Get for what reads a snapshot's data: also that of a damaged
// one, for most of it may be there, and all of it is verified when it is read.
func (m *Manager) getComplete(ctx context.Context, ref string) (*Snapshot, error) {
	e, err := m.Get(ctx, ref)
	if err == nil && e.State == manifest.Creating {
		return nil, fmt.Errorf("arcstore: snapshot %s: %w: its state is %s", e.ID, ErrNotReady, e.State)
	}
	return e, err
}

// latest returns the newest snapshot of target in a state among entries, which are oldest first; nil if there is none.
func latest(entries []*Snapshot, target string, state manifest.State) *Snapshot {
	for i := len(entries) - 1; i >= 0; i-- {
		if entries[i].TargetID == target && entries[i].State == state {
			return entries[i]
		}
	}
	return nil
}

// Delete deletes snapshots and returns their entries. Those that descend from
// them stay whole. All refs are resolved before the first one is deleted. The space comes back with GC.
func (m *Manager) Delete(ctx context.Context, refs ...string) (deleted []*Snapshot, err error) {
	defer ended(m, "delete", "", time.Now(), &deleted, &err)
	if m.readOnly {
		return nil, ErrReadOnly
	}
	var entries []*Snapshot
	for _, ref := range refs {
		e, err := m.Get(ctx, ref)
		if gone := m.droppedBy(ref); gone != nil && errors.Is(err, ErrNotFound) {
			e, err = gone, nil
		}
		if IsCorrupt(err) && manifest.ValidID(ref) == nil {
			e, err = &Snapshot{ID: ref, State: manifest.Invalid}, nil // its entry is what is damaged
		}
		if errors.Is(err, ErrNotFound) {
			err = errors.Join(err, m.catalogue.Sync()) // a deletion that failed before may not be durable yet
		}
		if err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(entries, func(other *Snapshot) bool { return other.ID == e.ID }) {
			entries = append(entries, e)
		}
	}
	for i, e := range entries {
		if err := m.remove(ctx, e); err != nil {
			return entries[:i], err
		}
	}
	return entries, nil
}

// droppedBy returns what ref names of the entries that went when the store was opened: who deletes one has what he wants.
func (m *Manager) droppedBy(ref string) *Snapshot {
	var found *Snapshot
	for _, e := range m.dropped {
		if ref != "" && strings.HasPrefix(e.ID, ref) {
			if found != nil {
				return nil
			}
			found = e
		}
	}
	return found
}

// remove deletes one entry, durably.
func (m *Manager) remove(ctx context.Context, e *Snapshot) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.running[e.ID] {
		return fmt.Errorf("arcstore: snapshot %s: %w: it is being created", e.ID, ErrNotReady)
	}
	err := m.catalogue.Delete(ctx, e.ID)
	if errors.Is(err, manifest.ErrNotFound) {
		return nil // named twice, or gone meanwhile: it is deleted
	}
	return err
}

// Prune deletes what keep does not keep, target by target, and says why each
// snapshot stays or goes.
func (m *Manager) Prune(ctx context.Context, keep Retention, opts *PruneOptions) (report *PruneReport, err error) {
	defer ended(m, "prune", pruneTarget(opts), time.Now(), &report, &err)
	if opts == nil {
		opts = &PruneOptions{}
	}
	if m.readOnly && !opts.DryRun {
		return nil, ErrReadOnly
	}
	entries, err := m.List(ctx, opts.Target)
	if err != nil {
		return nil, err
	}
	// Of what cannot be read, nobody knows whether it is to be kept.
	entries = slices.DeleteFunc(entries, func(e *Snapshot) bool { return e.TargetID == "" })
	if !opts.DryRun {
		if err := m.catalogue.Sync(); err != nil { // as in Delete
			return nil, err
		}
	}
	decisions, err := keep.Plan(entries)
	if err != nil {
		return nil, err
	}
	report = &PruneReport{DryRun: opts.DryRun, Decisions: decisions}
	for _, d := range decisions {
		if d.Keep {
			report.Kept++
			continue
		}
		if !opts.DryRun {
			if err := m.remove(ctx, d.Snapshot); err != nil {
				return report, err
			}
		}
		report.Removed++
	}
	return report, nil
}
