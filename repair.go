package arcstore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/arcboxlabs/arcstore/manifest"
)

// RepairReport says what a repair found and did. Sizes are in bytes.
type RepairReport struct {
	Found    *VerifyReport     `json:"found"`    // the damage
	Repaired []string          `json:"repaired"` // snapshots that were damaged and are whole
	Left     map[string]string `json:"left"`     // those that are not, by ID, and why
	Chunks   int64             `json:"chunks"`   // that came from the bucket
	Bytes    int64             `json:"bytes"`    // read there, of packs
	Duration time.Duration     `json:"duration_ns"`
}

// Repair verifies, and gets from a bucket what is damaged or missing: page tables and catalogue entries of snapshots that
// are there, and chunks that any snapshot there has. Every byte is verified. What is left of the damage, such as a pack of
// which nothing is needed anymore, GC drops.
func (m *Manager) Repair(ctx context.Context, from *Remote, opts *VerifyOptions) (report *RepairReport, err error) {
	defer ended(m, "repair", "", time.Now(), &report, &err)
	if err := m.canPull(from); err != nil {
		return nil, err
	}
	start := time.Now()
	found, err := m.Verify(ctx, opts)
	if err != nil {
		return nil, err
	}
	report = &RepairReport{Found: found, Left: make(map[string]string)}
	pulled := &PullReport{}
	for _, id := range found.affected() {
		if err := m.repair(ctx, from.Snapshots, id, pulled); ctx.Err() != nil {
			return nil, ctx.Err()
		} else if err != nil {
			report.Left[id] = err.Error()
			continue
		}
		again, err := m.Verify(ctx, &VerifyOptions{Snapshots: []string{id}, Data: opts.Data})
		if err != nil {
			return nil, err
		}
		if left := again.affected(); len(left) > 0 {
			report.Left[id] = again.Damage[0].Why
			continue
		}
		report.Repaired = append(report.Repaired, id)
	}
	report.Chunks, report.Bytes, report.Duration = pulled.ChunksNew, pulled.BytesRead, time.Since(start)
	return report, nil
}

// affected returns the IDs of the snapshots that damage affects, each once.
func (r *VerifyReport) affected() []string {
	var ids []string
	seen := make(map[string]bool)
	for _, d := range r.Damage {
		for _, id := range d.Snapshots {
			if !seen[id] {
				seen[id] = true
				ids = append(ids, id)
			}
		}
	}
	return ids
}

// repair makes one snapshot whole.
func (m *Manager) repair(ctx context.Context, from *Manager, id string, report *PullReport) error {
	e, err := m.catalogue.Get(ctx, id)
	if IsCorrupt(wrapManifest(err)) {
		e, err = from.catalogue.Get(ctx, id)
	}
	if err != nil {
		return wrapManifest(err)
	}
	p := &pull{m: m, from: from, entry: e, opts: &PullOptions{}, report: report}
	table, err := from.manifests.Open(ctx, e.Manifest)
	if errors.Is(err, manifest.ErrNotFound) {
		// Nobody pushed it; but what it lacks of chunks others may have.
		p.local = true
		table, err = m.manifests.Open(ctx, e.Manifest)
	}
	if err != nil {
		return fmt.Errorf("arcstore: snapshot %s: %w", id, wrapManifest(err))
	}
	defer table.Close()
	return p.copy(ctx, table)
}
