package arcstore

import (
	"os"
	"time"

	"github.com/arcboxlabs/arcstore/restore"
)

// ErrRegions: the memory that a VMM handed over is not laid out like the snapshot's.
var ErrRegions = restore.ErrRegions

// MappedRegion is where a part of a snapshot's memory lies in the address space of a VMM.
type MappedRegion = restore.MappedRegion

// GuestMemoryStats says what was done for a guest.
type GuestMemoryStats = restore.MemoryStats

// FaultOptions are the choices of LazySnapshot.Attach and LazySnapshot.ServeFaults; nil or the zero value loads what the guest asks for
// and no more.
type FaultOptions struct {
	// Threads is how many faults of a guest are answered at once; 0 is 8.
	Threads int
	// NoWorkingSet loads nothing ahead of what the guest asks for. Otherwise what was recorded is.
	NoWorkingSet bool
	// Record is for how long it is recorded what the guest asks for; 0 records nothing.
	Record time.Duration
	// FillRate is how many bytes a second are loaded of what the guest did not ask for, from FillAfter on, and not before the recording ended;
	// when all is there, the guest goes on without the service. 0 loads none of it; a negative rate has no bound.
	FillRate  int64
	FillAfter time.Duration
	// Damaged is told of pages that are damaged, by their offset in bytes: who touches them gets SIGBUS.
	Damaged func(offset int64, err error)
	// Warn is told of what is wrong and does no harm.
	Warn func(error)

	// What follows is for ServeFaults.

	// Clones is how many guests are served, 0 is one; negative means any number, until the context is done.
	Clones int
	// User is whose processes may hand memory over; nil is this process's user.
	User *int
	// Complete loads all at once. CompleteNow does so when it is closed.
	Complete    bool
	CompleteNow <-chan struct{}
	// Guard, unless nil, is called with a pidfd before a guest relies on the service, and sees to it that its VMM is killed should this process die: until
	// release.
	Guard func(pid int, process *os.File) (release func(), err error)
	// Attached and Ended are told of guests, each from a goroutine of its own.
	Attached func(pid int)
	Ended    func(GuestEnded)
}

// GuestEnded says what was done for a guest that needs the service no longer.
type GuestEnded struct {
	PID      int              `json:"pid"`
	Stats    GuestMemoryStats `json:"stats"`
	Err      error            `json:"-"` // why it was killed; nil where it was not
	Duration time.Duration    `json:"duration_ns"`
}
