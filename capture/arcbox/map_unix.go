//go:build unix

package arcbox

import (
	"os"

	"golang.org/x/sys/unix"
)

// mapFile maps a file's first size bytes.
func mapFile(f *os.File, size int64, write bool) (b []byte, unmap func(), err error) {
	prot := unix.PROT_READ
	if write {
		prot |= unix.PROT_WRITE
	}
	b, err = unix.Mmap(int(f.Fd()), 0, int(size), prot, unix.MAP_SHARED)
	return b, func() { unix.Munmap(b) }, err
}
