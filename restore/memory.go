package restore

import "errors"

// ErrRegions is wrapped by the error for regions that do not fit the snapshot.
var ErrRegions = errors.New("the regions of memory are not those of the snapshot")

// MappedRegion is where a part of a snapshot's memory lies in the address space of a VMM.
type MappedRegion struct {
	Address  uint64 // in the VMM
	Size     int64  // bytes
	Offset   int64  // in the stream
	PageSize int64  // bytes: 4 KiB, or 2 MiB for huge pages
}

// MemoryStats says what was done for a guest. Pages are of 4 KiB.
type MemoryStats struct {
	Faults     int64 `json:"faults"`     // that were answered
	Loaded     int64 `json:"loaded"`     // pages with data that were put in place
	Prefetched int64 `json:"prefetched"` // of these, before anybody asked
	Removed    int64 `json:"removed"`    // pages that the guest gave back
	Poisoned   int64 `json:"poisoned"`   // pages that are damaged
}
