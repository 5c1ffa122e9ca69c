package disk

import (
	"os"

	"golang.org/x/sys/unix"
)

// startWriteback has the device begin to write what the page cache holds of
// f. Its errors come back with Sync.
func startWriteback(f *os.File) {
	unix.SyncFileRange(int(f.Fd()), 0, 0, unix.SYNC_FILE_RANGE_WRITE)
}
