package arcstore

import (
	"context"

	"github.com/arcboxlabs/arcstore/store/disk"
)

// InitOnDisk is Init on a disk of the test's own.
var InitOnDisk = initOn

// OpenOnDisk is Open on a disk of the test's own.
func OpenOnDisk(ctx context.Context, d disk.Disk, dir string, opts *Options) (*Manager, error) {
	return openOn(ctx, d, 0, dir, opts)
}
