package store

import (
	"errors"
	"io/fs"

	"github.com/arcboxlabs/arcstore/store/disk"
)

// writeNote writes a file that whoever verifies may write, without the lock
// too. A sweep, in the process that has it, may take the temporary file for a
// leftover; then there is another one.
func writeNote(d disk.Disk, name string, b []byte) (err error) {
	for range 3 {
		if err = disk.WriteFile(d, name, b, true); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return err
}
