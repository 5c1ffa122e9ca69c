package arcstore

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/arcboxlabs/arcstore/manifest"
	"github.com/arcboxlabs/arcstore/store"
)

// roots is what a garbage collection starts from.
type roots struct {
	entries []*Snapshot // newest first
	digests []manifest.Digest
	gaps    map[int]bool // of digests, those that cannot be read completely
}

// hints returns the packs that the catalogue names for a digest.
func (r *roots) hints(group int) []string {
	if group < len(r.entries) {
		return r.entries[group].Packs
	}
	return nil
}

// roots reads the catalogue. What an entry that cannot be read refers to is
// not known: where there is one, every manifest counts.
func (m *Manager) roots(ctx context.Context) (*roots, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.readOnly {
		// An entry whose deletion is not durable would come back without its chunks.
		if err := m.catalogue.Sync(); err != nil {
			return nil, err
		}
	}
	entries, err := m.catalogue.List(ctx)
	damaged := manifest.CorruptErrors(err) != nil
	if err != nil && !damaged {
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
	others := slices.Collect(maps.Keys(m.parents))
	if damaged {
		all, err := m.manifests.List(ctx)
		if err != nil {
			return nil, err
		}
		others = append(others, all...)
	}
	for _, d := range others {
		if !seen[d] {
			seen[d] = true
			r.digests = append(r.digests, d)
		}
	}
	return r, nil
}

// GC frees what no snapshot needs, and lays together what has become
// scattered. It runs beside creates and restores.
func (m *Manager) GC(ctx context.Context, opts *GCOptions) (report *GCReport, err error) {
	defer ended(m, "gc", "", time.Now(), &report, &err)
	if opts == nil {
		opts = &GCOptions{}
	}
	if m.readOnly && !opts.DryRun {
		return nil, ErrReadOnly
	}
	start := time.Now()
	report = &GCReport{DryRun: opts.DryRun}
	if !opts.DryRun {
		if _, err := m.dropUnfinished(ctx); err != nil {
			return nil, fmt.Errorf("arcstore: gc: %w", err)
		}
	}
	var r *roots
	swept, err := m.store.Sweep(ctx, func(ctx context.Context) (store.Live, error) {
		var err error
		if r, err = m.roots(ctx); err != nil {
			return store.Live{}, err
		}
		var live store.Live
		live, r.gaps = m.liveOf(r.digests, r.hints)
		return live, nil
	}, store.SweepOptions{
		DryRun: opts.DryRun,
		Progress: func(phase string, done, total int64) {
			if opts.Progress != nil {
				opts.Progress(Progress{Phase: phase, Done: done, Total: total})
			}
		},
		Relocated: func(ctx context.Context, groups []store.Group) error { return m.refresh(ctx, r, groups) },
	})
	if err != nil {
		return nil, fmt.Errorf("arcstore: gc: %w", err)
	}
	report.Snapshots = len(r.entries)
	for i := range r.entries {
		if r.damaged(swept.Groups, i) {
			report.SnapshotsDamaged++
		}
	}
	report.ChunksLive = swept.Live
	report.PacksDeleted, report.PacksWritten = swept.PacksDeleted, swept.PacksWritten
	report.ChunksMoved, report.BytesRewritten = swept.ChunksMoved, swept.BytesRewritten
	report.LeftoversDeleted, report.NoRoom = swept.Leftovers, swept.NoRoom
	report.BytesFreed = swept.BytesDeleted - swept.BytesRewritten + swept.BytesLeftover
	for i := range swept.Groups {
		report.FramesPerMiBWorst = max(report.FramesPerMiBWorst, framesPerMiB(&swept.Groups[i]))
	}
	if err := m.collectManifests(ctx, opts.DryRun, report); err != nil {
		return nil, fmt.Errorf("arcstore: gc: %w", err)
	}
	if !opts.DryRun {
		if err := m.collectWorkingSets(ctx); err != nil {
			return nil, fmt.Errorf("arcstore: gc: %w", err)
		}
	}
	report.Duration = time.Since(start)
	return report, nil
}

// collectWorkingSets removes what was recorded of snapshots that are gone.
func (m *Manager) collectWorkingSets(ctx context.Context) error {
	entries, err := m.list(ctx)
	if err != nil {
		return err
	}
	ids := make(map[string]bool, len(entries))
	for _, e := range entries {
		ids[e.ID] = true
	}
	return m.working.Keep(ctx, ids)
}

func framesPerMiB(g *store.Group) float64 {
	if g.Frames <= 0 || g.Bytes < 1<<20 {
		return 0 // of a few pages it says nothing
	}
	return float64(g.Frames) / (float64(g.Bytes) / (1 << 20))
}

// refresh writes into the catalogue which packs hold each snapshot's chunks now, and whether they are all there.
func (m *Manager) refresh(ctx context.Context, r *roots, groups []store.Group) error {
	damaged := make(map[string]bool)
	for i, e := range r.entries {
		if r.damaged(groups, i) {
			damaged[e.ID] = true
		}
		names := packNames(groups[i].Packs, nil)
		if damaged[e.ID] {
			// The packs that were named may be all that is known of what it lacks.
			names = packNames(groups[i].Packs, e)
		}
		slices.Sort(names)
		old := slices.Sorted(slices.Values(e.Packs))
		if slices.Equal(names, old) {
			continue
		}
		if err := m.updateEntry(ctx, e.ID, func(e *Snapshot) { e.Packs = names }); err != nil {
			return err
		}
	}
	return m.setStates(ctx, r.entries, func(e *Snapshot) bool { return damaged[e.ID] })
}

// damaged reports whether the i-th snapshot lacks anything.
func (r *roots) damaged(groups []store.Group, i int) bool {
	return groups[i].Lacks > 0 || r.gaps[i]
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
	needed, keepAll := make(map[manifest.Digest]bool), false
	for _, d := range r.digests {
		if needed[d] {
			continue
		}
		needed[d] = true
		t, err := m.manifests.OpenDamaged(ctx, d)
		if isDamaged(err) {
			keepAll = true // what it builds on is not known
			continue
		}
		if err != nil {
			return err
		}
		for _, layer := range t.Layers() {
			if !needed[layer] || layer == d {
				needed[layer] = true
				if !dryRun {
					m.manifests.Mend(ctx, layer) // what cannot be mended stays as it is
				}
			}
		}
		if _, err := t.Broken(); err != nil {
			keepAll = true
		}
		t.Close()
	}
	all, err := m.manifests.List(ctx)
	if err != nil {
		return err
	}
	for _, d := range all {
		if needed[d] || keepAll {
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
	return m.removeLeftovers(dryRun, report)
}

// removeLeftovers removes the temporary files of creates that died, while
// none is running: mu keeps one from beginning.
func (m *Manager) removeLeftovers(dryRun bool, report *GCReport) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.running) > 0 {
		return nil
	}
	for _, where := range []leftovers{m.manifests, m.catalogue} {
		n, bytes, err := where.Temporary()
		if err == nil && !dryRun {
			n, err = where.RemoveTemporary()
		}
		if err != nil {
			return err
		}
		report.LeftoversDeleted += n
		report.BytesFreed += bytes
	}
	return nil
}

// leftovers is where interrupted creates leave files.
type leftovers interface {
	Temporary() (n int, bytes int64, err error)
	RemoveTemporary() (int, error)
}
