package manifest

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"time"
	"unicode/utf8"
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
	Format      int               `json:"format"` // set by Catalogue.Put
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
	Host        *Host             `json:"host,omitempty"` // it was taken on; nil where that is not known
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
	// Pause is for how long the guest was paused; 0 where arcstore did not pause it.
	Pause time.Duration `json:"pause_ns,omitempty"`
}

// NewID returns a new snapshot ID: 32 random hexadecimal digits.
func NewID() string {
	var b [16]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// The end of an entry's file, in every version: a last member with the
// CRC-32C of all bytes before it. A flipped bit in a number is still JSON.
const (
	sumBefore = ` "checksum": "`
	sumAfter  = "\"\n}\n"
	sumSize   = len(sumBefore) + 8 + len(sumAfter)
)

func checksumLine(b []byte) string {
	return fmt.Sprintf("%s%08x%s", sumBefore, crc32.Checksum(b, crcTable), sumAfter)
}

// Encode returns the content of the entry's file, and sets e.Format.
func (e *Entry) Encode() ([]byte, error) {
	b, err := e.encode()
	if err != nil {
		return nil, fmt.Errorf("manifest: entry %q: %w", e.ID, err)
	}
	return b, nil
}

// encode returns the entry's file; what decodeEntry would refuse is an error here.
func (e *Entry) encode() ([]byte, error) { return e.encodeWithin(maxEntry) }

// encodeWithin is encode for files of at most limit bytes.
func (e *Entry) encodeWithin(limit int) ([]byte, error) {
	e.Format = entryVersion
	if err := e.check(); err != nil {
		if !errors.Is(err, ErrInvalid) {
			err = fmt.Errorf("%w: %w", ErrInvalid, err)
		}
		return nil, err
	}
	b, err := json.MarshalIndent(e, "", " ")
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	b = append(b[:len(b)-len("\n}")], ",\n"...)
	b = append(b, checksumLine(b)...)
	if len(b) > limit {
		return nil, fmt.Errorf("%w: it has more than %d bytes", ErrInvalid, limit)
	}
	return b, nil
}

// check holds an entry to what the format allows.
func (e *Entry) check() error {
	if err := checkID(e.ID); err != nil {
		return err
	}
	if e.Parent != "" {
		if err := checkID(e.Parent); err != nil {
			return fmt.Errorf("its parent: %w", err)
		}
	}
	if err := checkTarget(e.TargetID); err != nil {
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
	return e.checkText()
}

// checkText refuses what JSON would not give back as it was.
func (e *Entry) checkText() error {
	ok := utf8.ValidString(e.Name) && utf8.ValidString(e.Description)
	for k, v := range e.Labels {
		ok = ok && utf8.ValidString(k) && utf8.ValidString(v)
	}
	for _, p := range e.Packs {
		ok = ok && utf8.ValidString(p)
	}
	ok = ok && (e.Host == nil || e.Host.text())
	if !ok {
		return errors.New("its name, description, labels, host or packs are not UTF-8")
	}
	return nil
}

// decodeEntry parses an entry's file.
func decodeEntry(b []byte) (*Entry, error) {
	at := len(b) - sumSize
	if at < 0 || checksumLine(b[:at]) != string(b[at:]) {
		return nil, errors.New("it has no checksum, or a wrong one")
	}
	var version struct {
		Format uint32 `json:"format"`
	}
	if err := json.Unmarshal(b, &version); err != nil {
		return nil, err
	}
	if version.Format > entryVersion {
		return nil, fmt.Errorf("%w: it has format %d, this program knows up to %d", ErrVersion, version.Format, entryVersion)
	}
	if version.Format == 0 {
		return nil, errors.New("it has no format version")
	}
	e := &Entry{}
	if err := json.Unmarshal(b, e); err != nil {
		return nil, err
	}
	return e, e.check()
}
