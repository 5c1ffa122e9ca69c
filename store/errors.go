package store

import (
	"errors"
	"fmt"
	"time"
)

// Sentinels for errors.Is.
var (
	ErrNotFound = errors.New("chunk not found")
	ErrCorrupt  = errors.New("data is damaged")
	ErrInUse    = errors.New("store is in use")
	ErrNoStore  = errors.New("not a store")
	ErrVersion  = errors.New("format is newer than this program")
	ErrExists   = errors.New("exists already")
	ErrPlain    = errors.New("the store is not encrypted")
	ErrReadOnly = errors.New("store is open read-only")
)

// InUseError says who holds the store's lock.
type InUseError struct {
	Dir    string
	PID    int    // 0 where not known
	Holder string // what that process says it is
	Waited time.Duration
}

func (e *InUseError) Error() string {
	who := "another process"
	if e.PID != 0 {
		who = fmt.Sprintf("process %d (%s)", e.PID, e.Holder)
	}
	return fmt.Sprintf("store %s is in use by %s", e.Dir, who)
}

// Is makes errors.Is(err, ErrInUse) hold.
func (e *InUseError) Is(target error) bool { return target == ErrInUse }
