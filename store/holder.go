package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/arcboxlabs/arcstore/store/disk"
)

// maxLockFile bounds what is read of a lock file, in bytes.
const maxLockFile = 1 << 16

// Holder returns the process that holds the lock of the store in dir, or nil. It does not
// try the lock, which would be in others' way: it goes by what the kernel lists, and sees no
// processes of other machines or outside this container, and only on Linux any.
func Holder(dir string) (*InUseError, error) {
	name := filepath.Join(dir, lockName)
	info, err := os.Stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("store: lock: %w", err)
	}
	h, err := readHolder(name)
	if err != nil || !holdsLock(h.PID, info) {
		return nil, err
	}
	return &InUseError{Dir: dir, PID: h.PID, Holder: h.Holder}, nil
}

// readHolder returns who held a lock last, as its file says.
func readHolder(name string) (h lockHolder, err error) {
	b, err := disk.ReadFile(disk.OS, name, maxLockFile)
	if err == nil && len(b) > 0 {
		err = json.Unmarshal(b, &h)
	}
	if err != nil {
		return lockHolder{}, fmt.Errorf("store: lock: %w", err)
	}
	return h, nil
}
