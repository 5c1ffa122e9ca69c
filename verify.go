package arcstore

import (
	"context"
	"errors"
	"fmt"
	"path"
	"time"

	"github.com/arcboxlabs/arcstore/manifest"
	"github.com/arcboxlabs/arcstore/store"
)

// Verify checks that everything is there and sound, without the lock and
// beside whoever holds it. Damage is in the report; an error means that the verification could not go on.
func (m *Manager) Verify(ctx context.Context, opts *VerifyOptions) (*VerifyReport, error) {
	if opts == nil {
		opts = &VerifyOptions{}
	}
	start := time.Now()
	v := &verification{m: m, opts: opts, report: &VerifyReport{Damage: []Damage{}}}
	if err := v.entries(ctx); err != nil {
		return nil, err
	}
	if err := v.manifests(ctx); err != nil {
		return nil, err
	}
	if err := v.chunks(ctx); err != nil {
		return nil, err
	}
	v.report.Duration = time.Since(start)
	return v.report, nil
}

// verification is one run.
type verification struct {
	m       *Manager
	opts    *VerifyOptions
	report  *VerifyReport
	sound   []*Snapshot // whose manifests can be read
	digests []manifest.Digest
	checked []*Snapshot
}

func (v *verification) damage(what, why string, snapshots ...string) {
	v.report.Damage = append(v.report.Damage, Damage{What: what, Why: why, Snapshots: snapshots})
}

// entries collects the snapshots to verify.
func (v *verification) entries(ctx context.Context) error {
	if len(v.opts.Snapshots) > 0 {
		for _, ref := range v.opts.Snapshots {
			e, err := v.m.Get(ctx, ref)
			if err != nil {
				return err
			}
			v.checked = append(v.checked, e)
		}
	} else {
		entries, err := v.m.catalogue.List(ctx)
		for _, bad := range manifest.CorruptErrors(err) {
			v.damage(path.Join(snapshotsName, bad.File), bad.Error())
			err = nil
		}
		if err != nil {
			return err
		}
		v.checked = entries
	}
	return nil
}

// manifests verifies the page tables of the snapshots, each file once.
func (v *verification) manifests(ctx context.Context) error {
	layers := make(map[manifest.Digest]error)
	for _, e := range v.checked {
		if e.State == manifest.Creating {
			continue
		}
		v.report.Snapshots++
		why, err := v.manifest(ctx, e.Manifest, layers)
		if err != nil {
			return err
		}
		if why != nil {
			v.damage(path.Join(manifestsName, e.Manifest.String()), why.Error(), e.ID)
			continue
		}
		v.sound = append(v.sound, e)
		v.digests = append(v.digests, e.Manifest)
	}
	return nil
}

// manifest verifies the layers of one manifest, but for those in known. why is the damage.
func (v *verification) manifest(ctx context.Context, d manifest.Digest, known map[manifest.Digest]error) (why, err error) {
	t, err := v.m.manifests.Open(ctx, d)
	if errors.Is(err, manifest.ErrCorrupt) || errors.Is(err, manifest.ErrNotFound) {
		return err, nil
	}
	if err != nil {
		return nil, err
	}
	defer t.Close()
	for _, layer := range t.Layers() {
		found, ok := known[layer]
		if !ok {
			found = v.m.manifests.Verify(ctx, layer)
			if found != nil && !errors.Is(found, manifest.ErrCorrupt) && !errors.Is(found, manifest.ErrNotFound) {
				return nil, found
			}
			known[layer] = found
		}
		if found != nil {
			return found, nil
		}
	}
	return nil, nil
}

// chunks verifies the packs, and that every chunk of the snapshots is in one of them.
func (v *verification) chunks(ctx context.Context) error {
	s := v.m.store
	live := v.m.liveOf(v.digests)
	so := store.VerifyOptions{Data: v.opts.Data, Progress: func(done, total int64) {
		if v.opts.Progress != nil {
			v.opts.Progress(Progress{Phase: "verify", Done: done, Total: total})
		}
	}}
	if len(v.opts.Snapshots) > 0 {
		c, err := s.Census(ctx, live, nil)
		if err != nil {
			return err
		}
		so.Packs = []store.PackID{}
		seen := make(map[store.PackID]bool)
		for i := range c.Groups {
			for _, id := range c.Groups[i].Packs {
				if !seen[id] {
					seen[id] = true
					so.Packs = append(so.Packs, id)
				}
			}
		}
	}
	verified, err := s.Verify(ctx, so)
	if err != nil {
		return err
	}
	v.report.Packs, v.report.Chunks, v.report.BytesRead = verified.Packs, verified.Chunks, verified.Bytes
	c, err := s.Census(ctx, live, verified)
	if err != nil {
		return err
	}
	where, err := v.attribute(ctx, verified, c, live)
	if err != nil {
		return err
	}
	for i, d := range verified.Damage {
		v.damage(path.Join("packs", d.Pack.String()), d.Err.Error(), where[i]...)
	}
	for i, e := range v.sound {
		if g := &c.Groups[i]; g.Lacks > 0 {
			v.damage(path.Join(snapshotsName, e.ID), fmt.Sprintf("%d of its chunks are damaged or missing, first %s", g.Lacks, g.Missing[0]), e.ID)
		}
	}
	return nil
}

// attribute returns, for each damage, the IDs of the snapshots that it
// affects: those that lack chunks and hold one of the damaged ones.
func (v *verification) attribute(ctx context.Context, verified *store.Verified, c *store.Census, live store.Live) ([][]string, error) {
	where := make([][]string, len(verified.Damage))
	damaged := make(map[ChunkID][]int)
	for i, d := range verified.Damage {
		for _, id := range d.Chunks {
			damaged[id] = append(damaged[id], i)
		}
	}
	if len(damaged) == 0 {
		return where, nil
	}
	for g, e := range v.sound {
		if c.Groups[g].Lacks == 0 {
			continue
		}
		hit := make(map[int]bool)
		err := live.Walk(ctx, g, func(ids []ChunkID) error {
			for i := range ids {
				for _, d := range damaged[ids[i]] {
					hit[d] = true
				}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		for i := range where {
			if hit[i] {
				where[i] = append(where[i], e.ID)
			}
		}
	}
	return where, nil
}
