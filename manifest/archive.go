package manifest

import (
	"encoding/json"
	"errors"
	"fmt"
)

const (
	// ArchiveStream is the name of the stream that holds an Archive.
	ArchiveStream = "archive.json"
	// ArchiveRestStream is the name of the stream that has what of an archive
	// is not its members' content, in order: headers, padding, the end.
	ArchiveRestStream = "archive.rest"
	// MaxArchiveSize bounds the encoding of an Archive, in bytes.
	MaxArchiveSize = 64 << 20

	archiveVersion = 1
)

// Archive says how a tar archive is put together again from streams.
type Archive struct {
	Format  int      `json:"format"`  // set by Encode
	Size    int64    `json:"size"`    // of the archive, in bytes
	Members []Member `json:"members"` // that have content, in the archive's order
}

// Member is where the whole of a stream lies in an archive.
type Member struct {
	Stream string `json:"stream"`
	Offset int64  `json:"offset"` // bytes
	Size   int64  `json:"size"`   // bytes
}

// Validate returns an error unless members follow each other within the archive.
func (a *Archive) Validate() error {
	end := int64(0)
	for _, m := range a.Members {
		if err := checkName(m.Stream); err != nil {
			return fmt.Errorf("manifest: archive: %w", err)
		}
		if m.Offset < end || m.Size < 0 || m.Size > a.Size-m.Offset {
			return fmt.Errorf("manifest: %w archive: %s does not lie where it could", ErrInvalid, m.Stream)
		}
		end = m.Offset + m.Size
	}
	if a.Size < end {
		return fmt.Errorf("manifest: %w archive: its size is negative", ErrInvalid)
	}
	return nil
}

// Rest returns the size of the stream ArchiveRestStream, in bytes.
func (a *Archive) Rest() int64 {
	rest := a.Size
	for _, m := range a.Members {
		rest -= m.Size
	}
	return rest
}

// Encode returns the description as the stream ArchiveStream holds it.
func (a *Archive) Encode() ([]byte, error) {
	if err := a.Validate(); err != nil {
		return nil, err
	}
	versioned := *a
	versioned.Format = archiveVersion
	b, err := json.Marshal(versioned)
	if err == nil && len(b) > MaxArchiveSize {
		err = errors.New("it has too many members")
	}
	if err != nil {
		return nil, fmt.Errorf("manifest: %w archive: %w", ErrInvalid, err)
	}
	return b, nil
}

// DecodeArchive is the inverse of Encode.
func DecodeArchive(b []byte) (*Archive, error) {
	a := &Archive{}
	if err := decodeDescription(b, ArchiveStream, MaxArchiveSize, archiveVersion, a); err != nil {
		return nil, err
	}
	if err := a.Validate(); err != nil {
		return nil, &CorruptError{File: ArchiveStream, Why: err.Error()}
	}
	return a, nil
}
