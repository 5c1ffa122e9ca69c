package crashdisk

import (
	"errors"
	"io/fs"
	"os"
	"slices"
	"syscall"
)

// Kind is what an operation does.
type Kind string

// The kinds of operations, each named as the operating system's errors name them.
const (
	Mkdir    Kind = "mkdir"
	Create   Kind = "open new"
	Open     Kind = "open"
	Rename   Kind = "rename"
	Remove   Kind = "remove"
	SyncDir  Kind = "sync directory"
	ReadDir  Kind = "readdir"
	Stat     Kind = "stat"
	Write    Kind = "write"
	ReadAt   Kind = "read"
	Sync     Kind = "sync"
	Close    Kind = "close" // of a file that was written
	FileStat Kind = "fstat"
)

// Changes reports whether the operation changes what a loss of power may leave.
func (k Kind) Changes() bool {
	switch k {
	case Mkdir, Create, Rename, Remove, SyncDir, Write, Sync:
		return true
	}
	return false
}

// NeedsRoom reports whether the operation fails on a full disk. Close is where a
// file system that allocates late may tell of it, and Sync likewise.
func (k Kind) NeedsRoom() bool {
	switch k {
	case Mkdir, Create, Rename, Write, Sync, Close:
		return true
	}
	return false
}

// Op is an operation that is about to be done.
type Op struct {
	N    int // counted from 1
	Kind Kind
	Name string // of the file or directory; of a rename, where to
	d    *Disk
}

// Crash is Disk.Crash, for use in a Hook: the operation has not been done yet.
func (o Op) Crash(dir string, seed uint64) error { return o.d.crash(dir, seed) }

// ErrPower is what every operation fails with once the power is lost.
var ErrPower = errors.New("power is lost")

// Hook is called before every operation, one at a time; an error is what the
// operation fails with, undone: but a failed write writes half, and a failed sync loses for good what it
// should have made durable. It must not call methods of the disk, but may those of Op.
func (d *Disk) Hook(hook func(Op) error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.hook = hook
}

// FailAt fails operation n alone.
func (d *Disk) FailAt(n int, errno syscall.Errno) {
	d.Hook(func(op Op) error {
		if op.N == n {
			return errno
		}
		return nil
	})
}

// FailFrom fails, from operation n on, every one of those kinds; of any kind if none is given.
func (d *Disk) FailFrom(n int, errno syscall.Errno, kinds ...Kind) {
	d.Hook(func(op Op) error {
		if op.N >= n && (len(kinds) == 0 || slices.Contains(kinds, op.Kind)) {
			return errno
		}
		return nil
	})
}

// PowerOffAt loses the power before operation n. What Crash leaves does not change anymore.
func (d *Disk) PowerOffAt(n int) {
	d.Hook(func(op Op) error {
		if op.N >= n {
			d.off = true
			return ErrPower
		}
		return nil
	})
}

// Ops returns how many operations there were.
func (d *Disk) Ops() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.ops
}

// begin counts an operation and returns what it fails with, as the system would; the caller holds d.mu.
func (d *Disk) begin(kind Kind, name, from string) error {
	d.ops++
	err := error(nil)
	switch {
	case d.off:
		err = ErrPower
	case d.hook != nil:
		err = d.hook(Op{d.ops, kind, name, d})
	}
	if err == nil {
		return nil
	}
	if kind == Rename {
		return &os.LinkError{Op: string(kind), Old: from, New: name, Err: err}
	}
	return &fs.PathError{Op: string(kind), Path: name, Err: err}
}
