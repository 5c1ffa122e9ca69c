package manifest

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

const (
	entryVersion = 1
	maxEntry     = 64 << 20 // bytes of JSON
)

// State is how far a snapshot is.
type State string

const (
	Creating State = "creating" // being written; or left behind by a process that died
	Ready    State = "ready"    // complete and durable
	Invalid  State = "invalid"  // known to be damaged
)

// TargetType says what kind of thing a target is.
type TargetType string

const (
	VM        TargetType = "vm"
	Container TargetType = "container"
)

// Entry is one snapshot in the catalogue.
type Entry struct {
	Format      int               `json:"format"` // of the entry
	ID          string            `json:"id"`
	Name        string            `json:"name,omitempty"`
	TargetID    string            `json:"target_id"`
	TargetType  TargetType        `json:"target_type"`
	Created     time.Time         `json:"created"`
	Size        int64             `json:"size"`             // bytes, of all streams
	Parent      string            `json:"parent,omitempty"` // snapshot ID
	Description string            `json:"description,omitempty"`
	Labels      map[string]string `json:"labels,omitempty"`
	State       State             `json:"state"`
	Manifest    Digest            `json:"manifest"`
	Cost        Cost              `json:"cost"`
	// Packs holds the IDs of the packs that hold its chunks. It is a hint:
	// what is not found there is looked for in the others.
	Packs []string `json:"packs,omitempty"`
}

// Cost is what the creation of a snapshot took.
type Cost struct {
	BytesScanned int64         `json:"bytes_scanned"` // read and hashed
	BytesNew     int64         `json:"bytes_new"`     // that the store lacked, uncompressed
	BytesStored  int64         `json:"bytes_stored"`  // of the packs written
	ChunksNew    int64         `json:"chunks_new"`
	Duration     time.Duration `json:"duration_ns"`
}

// NewID returns a new snapshot ID: 32 random hexadecimal digits.
func NewID() string {
	var b [16]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// encode returns the entry's file; what decodeEntry would refuse is an error here.
func (e *Entry) encode() ([]byte, error) {
	e.Format = entryVersion
	if err := e.check(); err != nil {
		return nil, err
	}
	b, err := json.MarshalIndent(e, "", " ")
	if err != nil {
		return nil, err
	}
	if len(b) >= maxEntry {
		return nil, fmt.Errorf("%w entry: it has more than %d bytes", ErrInvalid, maxEntry)
	}
	return append(b, '\n'), nil
}

// check holds an entry to what the format allows.
func (e *Entry) check() error {
	if err := ValidID(e.ID); err != nil {
		return err
	}
	if err := ValidTarget(e.TargetID); err != nil {
		return err
	}
	switch e.State {
	case Creating, Invalid:
	case Ready:
		if e.Manifest == (Digest{}) {
			return errors.New("it is ready but has no manifest")
		}
	default:
		return fmt.Errorf("it has an unknown state %q", e.State)
	}
	if e.TargetType != VM && e.TargetType != Container {
		return fmt.Errorf("it has an unknown target type %q", e.TargetType)
	}
	if e.Size < 0 {
		return errors.New("it has a negative size")
	}
	return nil
}

// decodeEntry parses an entry's file.
func decodeEntry(b []byte) (*Entry, error) {
	var version struct {
		Format int `json:"format"`
	}
	if err := json.Unmarshal(b, &version); err != nil {
		return nil, err
	}
	if version.Format > entryVersion {
		return nil, fmt.Errorf("%w: the entry has format %d, this program knows up to %d", ErrVersion, version.Format, entryVersion)
	}
	if version.Format < 1 {
		return nil, errors.New("it has no format version")
	}
	e := &Entry{}
	if err := json.Unmarshal(b, e); err != nil {
		return nil, err
	}
	return e, e.check()
}
