//go:build unix

package arcstore

import (
	"io/fs"
	"syscall"
)

// diskSize returns the bytes that a file takes on disk: less than its length if it is sparse.
func diskSize(info fs.FileInfo) int64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return min(int64(st.Blocks)*512, info.Size())
	}
	return info.Size()
}
