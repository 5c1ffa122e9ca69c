package arcstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/arcboxlabs/arcstore/manifest"
	"github.com/arcboxlabs/arcstore/store"
)

// roots is what a garbage collection starts from.
type roots struct {
	entries []*Snapshot // newest first
	digests []manifest.Digest
}

// roots reads the catalogue. Entries that cannot be read are an error: what they need is not known.
func (m *Manager) roots(ctx context.Context) (*roots, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	entries, err := m.catalogue.List(ctx)
	if err != nil {
		return nil, fmt.Errorf("arcstore: gc needs every catalogue entry, to know what to keep: %w", wrapManifest(err))
	}
	r := &roots{}
	seen := make(map[manifest.Digest]bool)
	for _, e := range slices.Backward(entries) {
		if e.State != manifest.Creating {
			r.entries = append(r.entries, e)
			r.digests = append(r.digests, e.Manifest)
			seen[e.Manifest] = true
		}
	}
	// What a running create inherits from must stay, even if it was deleted meanwhile.
	for d := range m.parents {
		if !seen[d] {
			r.digests = append(r.digests, d)
		}
	}
	return r, nil
}

// GC frees what no snapshot needs, and lays together what has become
// scattered. It runs beside creates and restores.
func (m *Manager) GC(ctx context.Context, opts *GCOptions) (*GCReport, error) {
	if opts == nil {
		opts = &GCOptions{}
	}
	if m.readOnly && !opts.DryRun {
		return nil, ErrReadOnly
	}
	start := time.Now()
	report := &GCReport{DryRun: opts.DryRun}
	var r *roots
	swept, err := m.store.Sweep(ctx, func(ctx context.Context) (store.Live, error) {
		var err error
		if r, err = m.roots(ctx); err != nil {
			return store.Live{}, err
		}
		return m.liveOf(r.digests), nil
	}, store.SweepOptions{
		DryRun: opts.DryRun,
		Progress: func(phase string, done, total int64) {
			if opts.Progress != nil {
				opts.Progress(Progress{Phase: phase, Done: done, Total: total})
			}
		},
		Relocated: func(ctx context.Context, groups []store.Group) error { return m.refreshPacks(ctx, r, groups) },
	})
	if err != nil {
		return nil, fmt.Errorf("arcstore: gc: %w", err)
	}
	report.Snapshots = len(r.entries)
	report.ChunksLive = swept.Live
	report.PacksDeleted, report.PacksWritten = swept.PacksDeleted, swept.PacksWritten
	report.ChunksMoved, report.BytesRewritten = swept.ChunksMoved, swept.BytesRewritten
	report.LeftoversDeleted = swept.Leftovers
	report.BytesFreed = swept.BytesDeleted - swept.BytesRewritten
	for i := range swept.Groups {
		report.FramesPerMiBWorst = max(report.FramesPerMiBWorst, framesPerMiB(&swept.Groups[i]))
	}
	if err := m.collectManifests(ctx, opts.DryRun, report); err != nil {
		return nil, fmt.Errorf("arcstore: gc: %w", err)
	}
	report.Duration = time.Since(start)
	return report, nil
}

func framesPerMiB(g *store.Group) float64 {
	if g.Frames <= 0 || g.Bytes < 1<<20 {
		return 0 // of a few pages it says nothing
	}
	return float64(g.Frames) / (float64(g.Bytes) / (1 << 20))
}

// refreshPacks writes into the catalogue which packs hold each snapshot's chunks now.
func (m *Manager) refreshPacks(ctx context.Context, r *roots, groups []store.Group) error {
	for i, e := range r.entries {
		names := packNames(groups[i].Packs, nil)
		slices.Sort(names)
		old := slices.Sorted(slices.Values(e.Packs))
		if slices.Equal(names, old) {
			continue
		}
		if err := m.updateEntry(ctx, e.ID, func(e *Snapshot) { e.Packs = names }); err != nil {
			return err
		}
	}
	return nil
}

// updateEntry changes an entry, unless it was deleted meanwhile.
func (m *Manager) updateEntry(ctx context.Context, id string, change func(*Snapshot)) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	e, err := m.catalogue.Get(ctx, id)
	if errors.Is(err, manifest.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	change(e)
	return m.catalogue.Put(ctx, e, true)
}

// collectManifests removes the manifests that no snapshot refers to, neither
// itself nor through descendants.
func (m *Manager) collectManifests(ctx context.Context, dryRun bool, report *GCReport) error {
	// A create that has written its manifest but not yet its entry would lose it.
	m.committing.Lock()
	defer m.committing.Unlock()
	r, err := m.roots(ctx)
	if err != nil {
		return err
	}
	needed := make(map[manifest.Digest]bool)
	for _, d := range r.digests {
		if needed[d] {
			continue
		}
		t, err := m.manifests.Open(ctx, d)
		if err != nil {
			return err
		}
		for _, layer := range t.Layers() {
			needed[layer] = true
		}
		t.Close()
	}
	all, err := m.manifests.List(ctx)
	if err != nil {
		return err
	}
	for _, d := range all {
		if needed[d] {
			continue
		}
		if size, err := m.manifests.Size(d); err == nil {
			report.BytesFreed += size
		}
		report.ManifestsDeleted++
		if !dryRun {
			if err := m.manifests.Remove(d); err != nil {
				return err
			}
		}
	}
	if !dryRun && m.idle() {
		n, err := m.manifests.RemoveTemporary()
		report.LeftoversDeleted += n
		if err != nil {
			return err
		}
		n, err = m.catalogue.RemoveTemporary()
		report.LeftoversDeleted += n
		return err
	}
	return nil
}

// idle reports whether no create is running, so that temporary files are leftovers.
func (m *Manager) idle() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.running) == 0
}
