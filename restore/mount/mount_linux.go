package mount

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Mounted is a mounted tree.
type Mounted struct {
	dir    string
	server *fuse.Server
	view   *view
}

const (
	// listedFor is for how long a list of snapshots is good, and what the kernel knows of names.
	listedFor = time.Second
	// idleSnapshots is how many snapshots stay open that nobody has a file of.
	idleSnapshots = 16
)

// ErrBusy: somebody uses what is mounted.
var ErrBusy = errors.New("it is in use")

// Mount shows a tree at dir, which must be an empty directory. What a process that was killed left mounted there, it takes away first. The
// tree is there until Unmount.
func Mount(dir string, tree Tree, opts *Options) (*Mounted, error) {
	if opts == nil {
		opts = &Options{}
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("mount: %w", err)
	}
	if err := clean(dir); err != nil {
		return nil, err
	}
	v := &view{tree: tree, opts: opts, open: make(map[string]*opened)}
	second := listedFor
	// It is not mounted read-only, for QEMU before 8.2 opens for writing what it maps privately.
	server, err := fs.Mount(dir, &dirNode{v: v}, &fs.Options{
		EntryTimeout: &second, AttrTimeout: &second, NegativeTimeout: nil,
		MountOptions: fuse.MountOptions{
			DirectMount: true, DirectMountFlags: unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_NOATIME,
			FsName: "arcstore", Name: "arcstore", AllowOther: opts.AllowOther, MaxReadAhead: max(4096, opts.ReadAhead), DisableXAttrs: true,
		},
	})
	if err != nil {
		return nil, fmt.Errorf("mount: %s: %w", dir, err)
	}
	return &Mounted{dir, server, v}, nil
}

// clean sees to it that dir is an empty directory.
func clean(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, unix.ENOTCONN) {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("mount: %s is what a mount left that died, and cannot be taken away: %w", dir, err)
		}
		entries, err = os.ReadDir(dir)
	}
	if err != nil {
		return fmt.Errorf("mount: %w", err)
	}
	if len(entries) > 0 {
		return fmt.Errorf("mount: %s is not empty: give an empty directory", dir)
	}
	return nil
}

// Unmount takes the tree away: ErrBusy while somebody uses it.
func (m *Mounted) Unmount() error {
	err := unix.Unmount(m.dir, 0)
	if errors.Is(err, unix.EPERM) {
		err = m.server.Unmount() // through fusermount3
	}
	if errors.Is(err, unix.EBUSY) || err != nil && strings.Contains(err.Error(), "busy") {
		return fmt.Errorf("mount: %s: %w", m.dir, ErrBusy)
	}
	if err != nil {
		return fmt.Errorf("mount: %s: %w", m.dir, err)
	}
	m.Wait()
	return nil
}

// Wait waits until the tree was taken away, by Unmount or by umount(8), and closes what is open.
func (m *Mounted) Wait() {
	m.server.Wait()
	m.view.close()
}

// view is what is known of a tree.
type view struct {
	tree Tree
	opts *Options

	mu     sync.Mutex
	listed time.Time
	list   []Entry
	open   map[string]*opened // by ID
	idle   []*opened          // of these, those that nobody uses, the last one used at the end
}

// opened is a snapshot that is open.
type opened struct {
	Snapshot
	id   string
	refs int // guarded by view.mu
	once sync.Once
	err  error
}

// entries lists the snapshots.
func (v *view) entries(ctx context.Context) ([]Entry, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.list != nil && time.Since(v.listed) < listedFor {
		return v.list, nil
	}
	list, err := v.tree.List(ctx)
	if err != nil {
		return nil, err
	}
	v.list, v.listed = list, time.Now()
	return list, nil
}

// use opens a snapshot, which must be released.
func (v *view) use(ctx context.Context, id string) (*opened, error) {
	v.mu.Lock()
	o := v.open[id]
	if o == nil {
		o = &opened{id: id}
		v.open[id] = o
	}
	if o.refs++; o.refs == 1 {
		for i := range v.idle {
			if v.idle[i] == o {
				v.idle = append(v.idle[:i:i], v.idle[i+1:]...)
				break
			}
		}
	}
	v.mu.Unlock()
	o.once.Do(func() { o.Snapshot, o.err = v.tree.Open(context.WithoutCancel(ctx), id) })
	if o.err != nil {
		v.release(o)
		return nil, o.err
	}
	return o, nil
}

// release ends what use began.
func (v *view) release(o *opened) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if o.refs--; o.refs > 0 {
		return
	}
	if o.err != nil { // it may pass
		if v.open[o.id] == o {
			delete(v.open, o.id)
		}
		return
	}
	v.idle = append(v.idle, o)
	for len(v.idle) > idleSnapshots {
		old := v.idle[0]
		v.idle = v.idle[1:]
		delete(v.open, old.id)
		old.Close()
	}
}

func (v *view) close() {
	v.mu.Lock()
	defer v.mu.Unlock()
	for id, o := range v.open {
		if o.Snapshot != nil {
			o.Close()
		}
		delete(v.open, id)
	}
	v.idle = nil
}

// failed tells of an error and returns what the kernel is told.
func (v *view) failed(ctx context.Context, path string, err error) unix.Errno {
	if ctx.Err() != nil {
		return unix.EINTR // who asked was killed, perhaps
	}
	if v.opts.Failed != nil {
		v.opts.Failed(path, err)
	}
	return unix.EIO
}
