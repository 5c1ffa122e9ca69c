package remote

import (
	"fmt"

	"github.com/arcboxlabs/arcstore/manifest"
	"github.com/arcboxlabs/arcstore/store"
)

// maxSnapshot bounds a snapshot's object, in bytes.
const maxSnapshot = 64 << 20

// Snapshot is a snapshot in a bucket: its catalogue entry, and where all lies that it needs.
type Snapshot struct {
	Entry     *manifest.Entry `json:"entry"`
	Packs     []Pack          `json:"packs"`          // that hold its chunks, in the order in which it needs them
	Manifests []Manifest      `json:"manifests"`      // its own first, then the ancestors that it is read with
	Host      string          `json:"host,omitempty"` // that pushed it
	// Near says for each NearChunks chunks of the memory which of Packs hold those that are not holes, by their places there: so who wants
	// one page reads the tables of few. It is a hint.
	Near [][]int `json:"near,omitempty"`

	key string
}

// NearChunks is what one entry of Near is for.
const NearChunks = 4096

// Pack is where a pack of a snapshot lies.
type Pack struct {
	ID     string   `json:"id"`
	Upload uploadID `json:"upload"`
	Size   int64    `json:"size"`  // bytes
	Table  int64    `json:"table"` // bytes of it that its chunk table takes
}

// Manifest is where a manifest of a snapshot lies.
type Manifest struct {
	Digest manifest.Digest `json:"digest"`
	Upload uploadID        `json:"upload"`
	Size   int64           `json:"size"` // bytes
}

// encode returns the object; what decodeSnapshot would refuse is an error here.
func (s *Snapshot) encode(key string, seal sealer) ([]byte, error) {
	b, err := seal.sealJSON(key, s)
	if err == nil && len(b) > maxSnapshot {
		err = fmt.Errorf("remote: snapshot %s: it lies in too many packs (%d): run gc and push it again", s.Entry.ID, len(s.Packs))
	}
	if err == nil {
		_, err = decodeSnapshot(key, b, seal)
	}
	return b, err
}

func decodeSnapshot(key string, b []byte, seal sealer) (*Snapshot, error) {
	s := &Snapshot{key: key}
	if err := seal.unsealJSON(key, b, s); err != nil {
		return nil, err
	}
	id, _, err := parseSnapshotKey(key)
	if err != nil {
		return nil, fmt.Errorf("remote: %w", err)
	}
	if s.Entry == nil || s.Entry.ID != id || len(s.Manifests) == 0 || s.Manifests[0].Digest != s.Entry.Manifest {
		return nil, fmt.Errorf("remote: %s: %w: it does not say what the snapshot is", key, ErrCorrupt)
	}
	for _, p := range s.Packs {
		if _, err := store.ParsePackID(p.ID); err != nil || p.Size <= 0 || p.Table <= 0 || p.Table >= p.Size {
			return nil, fmt.Errorf("remote: %s: %w: it names a pack that cannot be", key, ErrCorrupt)
		}
	}
	return s, nil
}

// parts lists what the snapshot needs.
func (s *Snapshot) parts() []part {
	var parts []part
	for _, p := range s.Packs {
		id, _ := store.ParsePackID(p.ID) // checked when it was decoded
		parts = append(parts, packPart(p.Upload, id))
	}
	for _, m := range s.Manifests {
		parts = append(parts, manifestPart(m.Upload, m.Digest))
	}
	return parts
}
