package arcstore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"

	"github.com/arcboxlabs/arcstore/manifest"
	"github.com/arcboxlabs/arcstore/store"
)

// Diff compares two snapshots, stream by stream and chunk by chunk, without reading a chunk.
func (m *Manager) Diff(ctx context.Context, a, b string) (*DiffReport, error) {
	var tables [2]*manifest.Table
	report := &DiffReport{}
	for i, ref := range []string{a, b} {
		e, err := m.getComplete(ctx, ref)
		if err != nil {
			return nil, err
		}
		t, err := m.openTable(ctx, e)
		if err != nil {
			return nil, err
		}
		defer t.Close()
		tables[i] = t
		*[]*string{&report.A, &report.B}[i] = e.ID
	}
	var names []string
	for _, t := range tables {
		for _, s := range t.Streams() {
			names = append(names, s.Name)
		}
	}
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		d, err := m.diffStream(ctx, tables, name)
		if err != nil {
			return nil, err
		}
		report.Streams = append(report.Streams, *d)
	}
	return report, nil
}

// diffStream compares one stream of two snapshots, which one of them may lack.
func (m *Manager) diffStream(ctx context.Context, tables [2]*manifest.Table, name string) (*StreamDiff, error) {
	d := &StreamDiff{Name: name, SizeA: -1, SizeB: -1}
	var streams [2]*manifest.StreamTable
	for i, t := range tables {
		s, err := t.Stream(name)
		if errors.Is(err, manifest.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		streams[i] = s
		*[]*int64{&d.SizeA, &d.SizeB}[i] = s.Size()
	}
	longer, shorter := streams[0], streams[1]
	if d.SizeB > d.SizeA {
		longer, shorter = shorter, longer
	}
	other := make([]ChunkID, tableStep)
	err := eachEntry(ctx, longer, func(first int64, ids []ChunkID) error {
		clear(other)
		if shorter != nil && first < shorter.Len() {
			if err := shorter.Lookup(first, other[:min(int64(len(ids)), shorter.Len()-first)]); err != nil {
				return err
			}
		}
		idsA, idsB := ids, other[:len(ids)]
		if longer != streams[0] {
			idsA, idsB = idsB, idsA
		}
		for i := range ids {
			n := chunkLength(longer, first+int64(i), m.ChunkSize())
			switch a, b := idsA[i], idsB[i]; {
			case a == b && a.IsHole():
			case a == b:
				d.Same += n
			case a.IsHole():
				d.Added += n
			case b.IsHole():
				d.Removed += n
			default:
				d.Changed += n
			}
		}
		return nil
	})
	return d, err
}

// Stats describes the store: what it holds, what that takes, and how
// scattered each snapshot lies. It walks every snapshot's page table.
func (m *Manager) Stats(ctx context.Context) (*Stats, error) {
	c := m.store.Config()
	s := &Stats{StoreID: c.ID, FormatVersion: c.Format, ChunkSize: c.ChunkSize, Compression: c.Compression, Encrypted: c.Encryption != nil}
	entries, err := m.list(ctx)
	if err != nil {
		return nil, err
	}
	targets := make(map[string]bool)
	var ready []*Snapshot
	var digests []manifest.Digest
	for _, e := range entries {
		if e.TargetID != "" {
			targets[e.TargetID] = true
		}
		if e.State == manifest.Ready {
			ready = append(ready, e)
			digests = append(digests, e.Manifest)
			s.Logical += e.Size
		}
	}
	s.Snapshots, s.Targets = len(entries), len(targets)
	live, _ := m.liveOf(digests, nil)
	census, err := m.store.Census(ctx, live)
	if err != nil {
		return nil, err
	}
	s.Packs, s.PackBytes, s.Chunks, s.ChunkBytes = census.Packs, census.PackBytes, census.Chunks, census.ChunkBytes
	for i, e := range ready {
		g := &census.Groups[i]
		s.Data += g.Bytes
		s.Fragmentation = append(s.Fragmentation, Fragmentation{Snapshot: e.ID, TargetID: e.TargetID,
			Packs: len(g.Packs), Frames: g.Frames, FramesPerMiB: framesPerMiB(g)})
	}
	for name, size := range map[string]*int64{manifestsName: &s.ManifestBytes, snapshotsName: &s.CatalogueBytes, store.IndexDir: &s.IndexBytes} {
		if *size, err = treeSize(filepath.Join(m.store.Dir(), name)); err != nil {
			return nil, fmt.Errorf("arcstore: stats: %w", err)
		}
	}
	return s, nil
}

// treeSize sums the space that the files under dir take on disk, in bytes.
func treeSize(dir string) (int64, error) {
	sum := int64(0)
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			var info fs.FileInfo
			if info, err = d.Info(); err == nil {
				sum += diskSize(info)
			}
		}
		// Beside us, the process that writes removes files.
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
	return sum, err
}
