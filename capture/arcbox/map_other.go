//go:build !unix

package arcbox

import (
	"io"
	"os"
)

// mapFile reads a file's first size bytes; unmap writes them back.
func mapFile(f *os.File, size int64, write bool) (b []byte, unmap func(), err error) {
	b = make([]byte, size)
	if !write {
		_, err = io.ReadFull(io.NewSectionReader(f, 0, size), b)
		return b, func() {}, err
	}
	return b, func() { f.WriteAt(b, 0) }, nil
}
