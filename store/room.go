//go:build unix

package store

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// indexRoom is how much must be free before Badger is touched, in bytes: it
// writes through mappings of sparse files, and a process that does so on a
// full disk is killed, not told.
const indexRoom = 64 << 20

// noRoom reports whether err says that the disk, or its user's share of it, is full.
func noRoom(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }

// checkRoom returns an error that wraps ENOSPC if fewer than need bytes are
// free where dir is. Where the system cannot tell, there is room.
func checkRoom(dir string, need int64) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return nil
	}
	if free := int64(st.Bavail) * int64(st.Bsize); free < need {
		return fmt.Errorf("store: index: %w: %d bytes are free, %d are needed", unix.ENOSPC, free, need)
	}
	return nil
}
