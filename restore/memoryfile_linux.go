package restore

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// newMemoryFile returns a file that is nothing but memory, empty. Who gets it may map it.
func newMemoryFile(name string) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// allocatePages makes pages of a memory file be there. What they hold stays; what was a hole reads as zeros.
func allocatePages(f *os.File, off, n int64) error {
	for {
		err := unix.Fallocate(int(f.Fd()), 0, off, n)
		if !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("fallocate", err)
		}
	}
}
