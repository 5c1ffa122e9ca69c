package manifest

import (
	"errors"
	"fmt"
)

// Sentinels for errors.Is.
var (
	ErrNotFound = errors.New("not found")
	ErrCorrupt  = errors.New("data is damaged")
	ErrVersion  = errors.New("format is newer than this program")
	// ErrInvalid: a name, an ID or a description that cannot be.
	ErrInvalid = errors.New("invalid")
)

// CorruptError says which file is damaged. It wraps ErrCorrupt. An error of
// the device, which may pass, is never one.
type CorruptError struct {
	File   string // relative to its directory
	Offset int64  // byte where the damaged part begins; 0 where it is the file as a whole
	Why    string
}

func (e *CorruptError) Error() string {
	at := ""
	if e.Offset > 0 {
		at = fmt.Sprintf(" at byte %d", e.Offset)
	}
	return fmt.Sprintf("manifest: %s%s: %v: %s", e.File, at, ErrCorrupt, e.Why)
}

// Is makes errors.Is(err, ErrCorrupt) hold.
func (e *CorruptError) Is(target error) bool { return target == ErrCorrupt }

// CorruptErrors returns the CorruptErrors that err consists of; none if it says anything else too.
func CorruptErrors(err error) []*CorruptError {
	if err == nil {
		return nil
	}
	if c, ok := err.(*CorruptError); ok {
		return []*CorruptError{c}
	}
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return nil
	}
	var all []*CorruptError
	for _, e := range joined.Unwrap() {
		found := CorruptErrors(e)
		if found == nil {
			return nil
		}
		all = append(all, found...)
	}
	return all
}
