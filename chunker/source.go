package chunker

import "io"

// A Source is random-access bytes of a size that does not change while it is
// read: a file, mapped memory, a runtime's callback. ReadAt is called from
// several goroutines at once, and must fill its buffer or return an error.
type Source interface {
	io.ReaderAt
	// Size returns the length in bytes.
	Size() int64
}

// A HoleFinder is a Source that knows where it holds no data.
type HoleFinder interface {
	Source
	// NextData returns the first range [start, end) at or after off that may
	// hold anything but zeros; start == end == Size() when there is none.
	// It is called from one goroutine, with growing offsets.
	NextData(off int64) (start, end int64, err error)
}
