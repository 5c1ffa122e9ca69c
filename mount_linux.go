package arcstore

import "github.com/arcboxlabs/arcstore/restore/mount"

// Mounted is a store, or a bucket, whose snapshots are files.
type Mounted = mount.Mounted

// ErrMountBusy: somebody uses what is mounted.
var ErrMountBusy = mount.ErrBusy

// Mount shows the snapshots at dir, an empty directory, as read-only files: <target>/<id>/memory and so on, and <target>/latest. They are read as
// they are needed, and verified; those that are taken later appear, too. The manager must stay open until the tree is unmounted. It takes root, or fusermount3.
func (m *Manager) Mount(dir string, opts *MountOptions) (*Mounted, error) {
	return mount.Mount(dir, mountTree{m}, opts)
}
