package main

import (
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/arcboxlabs/arcstore"
)

// mountAt mounts a store, and returns what unmounts it.
func mountAt(m *arcstore.Manager, dir string) (unmount func() error, err error) {
	mounted, err := m.Mount(dir, nil)
	if err != nil {
		return nil, err
	}
	return func() (err error) {
		for range 50 { // whoever had it open is just gone
			if err = mounted.Unmount(); err == nil {
				return nil
			}
			time.Sleep(20 * time.Millisecond)
		}
		return err
	}, nil
}

// residentPages returns how many pages of a file the kernel has in memory.
func residentPages(name string) (float64, error) {
	f, err := os.Open(name)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	b, err := unix.Mmap(int(f.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return 0, err
	}
	defer unix.Munmap(b)
	in := make([]byte, len(b)/page)
	if _, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), uintptr(unsafe.Pointer(&in[0]))); errno != 0 {
		return 0, errno
	}
	n := 0
	for _, p := range in {
		n += int(p & 1)
	}
	return float64(n), nil
}
