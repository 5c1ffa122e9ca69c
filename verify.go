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
	"github.com/arcboxlabs/arcstore/store"
)

// Verify checks that everything is there and sound, without the lock and
// beside whoever holds it. Damage is in the report; an error means that the verification could not go on.
//
// What it finds is remembered, also by a Manager that is open read-only: the store takes damaged chunks for absent, so
// that creates heal them, and snapshots become Invalid, or Ready again.
func (m *Manager) Verify(ctx context.Context, opts *VerifyOptions) (report *VerifyReport, err error) {
	defer ended(m, "verify", "", time.Now(), &report, &err)
	if opts == nil {
		opts = &VerifyOptions{}
	}
	start := time.Now()
	v := &verification{m: m, opts: opts, report: &VerifyReport{Damage: []Damage{}}, damaged: make(map[string]bool)}
	for _, step := range []func(context.Context) error{v.entries, v.manifests, v.chunks} {
		if err := step(ctx); err != nil {
			return nil, err
		}
	}
	v.note(m.setStates(ctx, v.checked, func(e *Snapshot) bool { return v.damaged[e.ID] }))
	v.report.Duration = time.Since(start)
	return v.report, nil
}

// verification is one run.
type verification struct {
	m       *Manager
	opts    *VerifyOptions
	report  *VerifyReport
	checked []*Snapshot
	tables  []*Snapshot // of checked, those whose page tables can be read, if with gaps
	damaged map[string]bool
}

func (v *verification) damage(what, why string, snapshots ...string) {
	v.report.Damage = append(v.report.Damage, Damage{What: what, Why: why, Snapshots: snapshots})
	for _, id := range snapshots {
		v.damaged[id] = true
	}
}

// note keeps the first reason for which something could not be written down.
func (v *verification) note(err error) {
	if err != nil && v.report.Unnoted == "" && !errors.Is(err, errors.ErrUnsupported) { // a bucket takes no notes
		v.report.Unnoted = err.Error()
	}
}

// whole reports whether the whole store is verified.
func (v *verification) whole() bool { return len(v.opts.Snapshots) == 0 }

// entries collects the snapshots to verify.
func (v *verification) entries(ctx context.Context) error {
	for _, ref := range v.opts.Snapshots {
		e, err := v.m.Get(ctx, ref)
		if err != nil {
			return err
		}
		v.checked = append(v.checked, e)
	}
	if v.whole() {
		entries, err := v.m.catalogue.List(ctx)
		for _, bad := range manifest.CorruptErrors(err) {
			v.damage(path.Join(snapshotsName, bad.File), bad.Error(), strings.TrimSuffix(bad.File, path.Ext(bad.File)))
			err = nil
		}
		if err != nil {
			return wrapManifest(err)
		}
		v.checked = entries
		for name, err := range v.m.store.VerifyConfig() {
			v.damage(name, err.Error())
		}
	}
	v.checked = slices.DeleteFunc(v.checked, func(e *Snapshot) bool { return e.State == manifest.Creating })
	v.report.Snapshots = len(v.checked)
	return nil
}

// deleted reports whether a snapshot was deleted since the verification
// began: then it may well lack something.
func (v *verification) deleted(ctx context.Context, e *Snapshot) bool {
	_, err := v.m.catalogue.Get(ctx, e.ID)
	return errors.Is(err, manifest.ErrNotFound)
}

// layerDamage is a manifest that is damaged, and whose snapshots that affects.
type layerDamage struct {
	digest    manifest.Digest
	why       error
	snapshots []string
}

// manifests verifies the page tables of the snapshots, each file once.
func (v *verification) manifests(ctx context.Context) error {
	known := make(map[manifest.Digest]*layerDamage) // nil for a sound one
	var found []*layerDamage
	add := func(d manifest.Digest, why error) *layerDamage {
		l := &layerDamage{digest: d, why: why}
		known[d] = l
		found = append(found, l)
		return l
	}
	for _, e := range v.checked {
		t, err := v.m.manifests.OpenDamaged(ctx, e.Manifest)
		if isDamaged(err) && v.deleted(ctx, e) {
			continue
		}
		if isDamaged(err) {
			l := known[e.Manifest]
			if l == nil {
				l = add(e.Manifest, err)
			}
			l.snapshots = append(l.snapshots, e.ID)
			continue
		}
		if err != nil {
			return wrapManifest(err)
		}
		v.tables = append(v.tables, e)
		err = v.table(ctx, e, t, known, add)
		t.Close()
		if err != nil {
			return err
		}
	}
	for _, l := range found {
		if len(l.snapshots) == 0 && errors.Is(l.why, manifest.ErrNotFound) {
			continue // deleted meanwhile, and nobody misses it
		}
		v.damage(path.Join(manifestsName, l.digest.String()), l.why.Error(), l.snapshots...)
	}
	return nil
}

// table verifies the files of one snapshot's page tables, but for those in
// known, and whether what is wrong with them affects it: what newer ones say outweighs what older ones lost.
func (v *verification) table(ctx context.Context, e *Snapshot, t *manifest.Table, known map[manifest.Digest]*layerDamage,
	add func(manifest.Digest, error) *layerDamage) error {
	var bad []*layerDamage
	for _, layer := range t.Layers() {
		l, ok := known[layer]
		if !ok {
			err := v.m.manifests.Verify(ctx, layer)
			if err != nil && !isDamaged(err) {
				return wrapManifest(err)
			}
			if known[layer] = nil; err != nil {
				l = add(layer, err)
			}
		}
		if l != nil {
			bad = append(bad, l)
		}
	}
	if d, err := t.Broken(); err != nil {
		l := known[d]
		if l == nil {
			l = add(d, err)
		}
		bad = append(bad, l)
	}
	if len(bad) == 0 || v.deleted(ctx, e) {
		return nil
	}
	gaps := false
	err := salvageEach(ctx, t, func(string, manifest.Gap) { gaps = true }, func([]ChunkID) error { return nil })
	if err == nil && gaps {
		for _, l := range bad {
			l.snapshots = append(l.snapshots, e.ID)
		}
	}
	return err
}

// chunks verifies the packs, and that every chunk of the snapshots is in one of them.
func (v *verification) chunks(ctx context.Context) error {
	s := v.m.store
	digests := make([]manifest.Digest, len(v.tables))
	for i, e := range v.tables {
		digests[i] = e.Manifest
	}
	live, _ := v.m.liveOf(digests, nil)
	so := store.VerifyOptions{Progress: func(done, total int64) {
		if v.opts.Progress != nil {
			v.opts.Progress(Progress{Phase: "verify", Done: done, Total: total})
		}
	}}
	if v.opts.Data {
		so.Data = 100
		if v.opts.Percent > 0 {
			so.Data = v.opts.Percent
		}
	}
	if !v.whole() {
		c, err := s.Census(ctx, live)
		if err != nil {
			return err
		}
		so.Packs = v.packs(c)
	}
	verified, err := s.Verify(ctx, so)
	if err != nil {
		return err
	}
	v.cover(verified)
	c, err := s.Census(ctx, live)
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
	lost := int64(0)
	for i, e := range v.tables {
		g := &c.Groups[i]
		if g.Lacks == 0 || v.deleted(ctx, e) {
			continue
		}
		lost += g.Lost
		v.damage(path.Join(snapshotsName, e.ID), fmt.Sprintf("%d of its chunks are damaged or missing, first %s", g.Lacks, g.Missing[0]), e.ID)
	}
	if v.whole() || lost > 0 {
		v.note(s.NoteLost(lost > 0))
	}
	return nil
}

// packs lists the packs that the groups of a census need, were it not for damage.
func (v *verification) packs(c *store.Census) []store.PackID {
	packs := []store.PackID{}
	seen := make(map[store.PackID]bool)
	for i := range c.Groups {
		g := &c.Groups[i]
		hints := g.Packs
		if g.Lacks > 0 {
			hints = slices.Concat(hints, g.Damaged, packIDs(v.tables[i].Packs))
		}
		for _, id := range hints {
			if !seen[id] {
				seen[id] = true
				packs = append(packs, id)
			}
		}
	}
	return packs
}

// cover reports how much was verified.
func (v *verification) cover(found *store.Verified) {
	r := v.report
	r.Packs, r.Chunks, r.BytesRead = found.Packs, found.Chunks, found.Bytes
	r.Coverage = Coverage{Packs: found.PacksRead, Bytes: found.BytesRead, Total: found.BytesTotal, Never: found.NeverRead}
	if !found.Since.IsZero() {
		since := found.Since.UTC()
		r.Coverage.Since = &since
	}
	v.note(found.Unnoted)
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
	for g, e := range v.tables {
		group := &c.Groups[g]
		if group.Lacks == 0 || v.deleted(ctx, e) {
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
		for i, d := range verified.Damage {
			// Of a pack whose table is gone, the catalogue knows who needed it.
			unreadable := len(d.Chunks) == 0 && d.Offset < 0 && group.Lost > 0 && slices.Contains(e.Packs, d.Pack.String())
			if hit[i] || unreadable {
				where[i] = append(where[i], e.ID)
			}
		}
	}
	return where, nil
}
