package mount

import (
	"context"
	"time"
)

// Tree is what is mounted. It is safe for concurrent use.
type Tree interface {
	// List lists the snapshots there are now, oldest first.
	List(ctx context.Context) ([]Entry, error)
	// Open opens one for reading, by its ID.
	Open(ctx context.Context, id string) (Snapshot, error)
}

// Entry is a snapshot in a list.
type Entry struct {
	ID      string
	Target  string // may have slashes inside
	Created time.Time
}

// Snapshot is a snapshot whose streams can be read. It is safe for concurrent use.
type Snapshot interface {
	Streams() []Stream
	File(name string) (File, error)
	Close() error
}

// Stream is one of a snapshot's streams.
type Stream struct {
	Name string // may have slashes inside
	Size int64  // bytes
}

// File is a stream that is read. It is safe for concurrent use.
type File interface {
	// ReadContext reads as io.ReaderAt does.
	ReadContext(ctx context.Context, b []byte, offset int64) (int, error)
	// Next returns the first offset, from offset on, where there is data, or a hole; the size where there is none.
	Next(ctx context.Context, offset int64, data bool) (int64, error)
}

// Options are the choices of Mount; nil or the zero value is the default.
type Options struct {
	// AllowOther lets processes of other users in, as the modes of the files would not: a VMM that runs as its own user.
	AllowOther bool
	// ReadAhead is how much the kernel reads around what is touched in a mapping, in bytes; 0 is the page alone: guests
	// touch their memory here and there, and all that is read takes memory. Reads that ask for more get more at once all the same.
	ReadAhead int
	// Failed is told of reads that fail, with the file's path in the tree. Its caller gets EIO.
	Failed func(path string, err error)
}
