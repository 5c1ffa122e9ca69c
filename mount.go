package arcstore

import (
	"context"
	"slices"

	"github.com/arcboxlabs/arcstore/manifest"
	"github.com/arcboxlabs/arcstore/restore/mount"
)

// MountOptions are the choices of Mount; nil or the zero value is the default.
type MountOptions = mount.Options

// Streams lists the snapshot's streams with their sizes, in order of their names.
func (l *LazySnapshot) Streams() []manifest.Stream { return l.table.Streams() }

// mountTree has package mount read a store.
type mountTree struct{ m *Manager }

func (t mountTree) List(ctx context.Context) ([]mount.Entry, error) {
	all, err := t.m.list(ctx)
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(e *Snapshot) bool { return e.State == manifest.Creating || e.TargetID == "" })
	entries := make([]mount.Entry, len(all))
	for i, e := range all {
		entries[i] = mount.Entry{ID: e.ID, Target: e.TargetID, Created: e.Created}
	}
	return entries, nil
}

func (t mountTree) Open(ctx context.Context, id string) (mount.Snapshot, error) {
	l, err := t.m.OpenLazy(ctx, id)
	if err != nil {
		return nil, err
	}
	return mountedSnapshot{l}, nil
}

type mountedSnapshot struct{ l *LazySnapshot }

func (s mountedSnapshot) Streams() []mount.Stream {
	var streams []mount.Stream
	for _, t := range s.l.Streams() {
		streams = append(streams, mount.Stream{Name: t.Name, Size: t.Size})
	}
	return streams
}

func (s mountedSnapshot) File(name string) (mount.File, error) { return s.l.Stream(name) }

func (s mountedSnapshot) Close() error { return s.l.Close() }
