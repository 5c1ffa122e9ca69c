package mount

import (
	"context"
	"errors"
	"hash/fnv"
	"io"
	"os"
	"path"
	"sort"
	"strings"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// latestName is a link to a target's newest snapshot.
const latestName = "latest"

// dirNode is a directory: of targets, or of parts of their names, and of a target's snapshots.
type dirNode struct {
	fs.Inode
	fixed
	v      *view
	prefix string // of targets: "" or "a/b/"
}

var (
	_ fs.NodeLookuper  = (*dirNode)(nil)
	_ fs.NodeReaddirer = (*dirNode)(nil)
	_ fs.NodeGetattrer = (*dirNode)(nil)
	_ fs.NodeUnlinker  = (*dirNode)(nil)
	_ fs.NodeRmdirer   = (*dirNode)(nil)
	_ fs.NodeRenamer   = (*dirNode)(nil)
	_ fs.NodeMkdirer   = (*dirNode)(nil)
	_ fs.NodeMknoder   = (*dirNode)(nil)
	_ fs.NodeSymlinker = (*dirNode)(nil)
	_ fs.NodeCreater   = (*dirNode)(nil)
)

// child is what a name in a directory stands for.
type child struct {
	name   string
	target bool   // of which this is a part
	id     string // of a snapshot
	time   time.Time
}

// children lists a directory.
func (d *dirNode) children(ctx context.Context) ([]child, error) {
	entries, err := d.v.entries(ctx)
	if err != nil {
		return nil, err
	}
	byName := make(map[string]child)
	own := strings.TrimSuffix(d.prefix, "/")
	for _, e := range entries {
		if e.Target == own && own != "" {
			byName[e.ID] = child{name: e.ID, id: e.ID, time: e.Created}
			byName[latestName] = child{name: latestName, id: e.ID, time: e.Created}
		} else if rest, ok := strings.CutPrefix(e.Target, d.prefix); ok && rest != "" {
			name, _, _ := strings.Cut(rest, "/")
			if c, ok := byName[name]; !ok || c.target {
				byName[name] = child{name: name, target: true, time: e.Created}
			}
		}
	}
	list := make([]child, 0, len(byName))
	for _, c := range byName {
		list = append(list, c)
	}
	sort.Slice(list, func(i, j int) bool { return list[i].name < list[j].name })
	return list, nil
}

// inode returns a number for what lies at a path, the same one each time: so the kernel knows that it has pages of it.
func inode(path string) uint64 {
	h := fnv.New64a()
	io.WriteString(h, path)
	return h.Sum64() | 1<<63
}

func (d *dirNode) Readdir(ctx context.Context) (fs.DirStream, syscall.Errno) {
	list, err := d.children(ctx)
	if err != nil {
		return nil, d.v.failed(ctx, d.prefix, err)
	}
	var out []fuse.DirEntry
	for _, c := range list {
		mode := uint32(unix.S_IFDIR)
		if c.name == latestName && c.id != "" {
			mode = unix.S_IFLNK
		}
		out = append(out, fuse.DirEntry{Name: c.name, Mode: mode, Ino: inode(d.prefix + c.name)})
	}
	return fs.NewListDirStream(out), 0
}

func (d *dirNode) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	list, err := d.children(ctx)
	if err != nil {
		return nil, d.v.failed(ctx, d.prefix+name, err)
	}
	for _, c := range list {
		if c.name != name {
			continue
		}
		at := d.prefix + name
		setTimes(&out.Attr, c.time)
		switch {
		case c.target:
			out.Mode = unix.S_IFDIR | 0o500
			return d.NewInode(ctx, &dirNode{v: d.v, prefix: at + "/"}, fs.StableAttr{Mode: unix.S_IFDIR, Ino: inode(at)}), 0
		case name == latestName:
			out.Mode = unix.S_IFLNK | 0o500
			return d.NewInode(ctx, &fs.MemSymlink{Data: []byte(c.id)}, fs.StableAttr{Mode: unix.S_IFLNK, Ino: inode(at + c.id)}), 0
		}
		out.Mode = unix.S_IFDIR | 0o500
		return d.NewInode(ctx, &snapshotNode{v: d.v, id: c.id, created: c.time, path: at}, fs.StableAttr{Mode: unix.S_IFDIR, Ino: inode(at)}), 0
	}
	return nil, unix.ENOENT
}

func (d *dirNode) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	out.Mode = unix.S_IFDIR | 0o500
	own(&out.Attr)
	return 0
}

// own has a file belong to who mounted it.
func own(a *fuse.Attr) { a.Uid, a.Gid = uint32(os.Getuid()), uint32(os.Getgid()) }

func setTimes(a *fuse.Attr, t time.Time) {
	a.SetTimes(nil, &t, &t)
	own(a)
}

// snapshotNode is a snapshot's directory, or one in it.
type snapshotNode struct {
	fs.Inode
	fixed
	v       *view
	id      string
	created time.Time
	path    string // in the tree
	prefix  string // of streams: "" or "criu/"
}

var (
	_ fs.NodeLookuper  = (*snapshotNode)(nil)
	_ fs.NodeReaddirer = (*snapshotNode)(nil)
	_ fs.NodeGetattrer = (*snapshotNode)(nil)
)

func (s *snapshotNode) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	out.Mode = unix.S_IFDIR | 0o500
	setTimes(&out.Attr, s.created)
	return 0
}

func (s *snapshotNode) Readdir(ctx context.Context) (fs.DirStream, syscall.Errno) {
	o, err := s.v.use(ctx, s.id)
	if err != nil {
		return nil, s.v.failed(ctx, s.path, err)
	}
	defer s.v.release(o)
	var out []fuse.DirEntry
	seen := make(map[string]bool)
	for _, stream := range o.Streams() {
		rest, ok := strings.CutPrefix(stream.Name, s.prefix)
		if !ok {
			continue
		}
		name, _, deeper := strings.Cut(rest, "/")
		if seen[name] {
			continue
		}
		seen[name] = true
		mode := uint32(unix.S_IFREG)
		if deeper {
			mode = unix.S_IFDIR
		}
		out = append(out, fuse.DirEntry{Name: name, Mode: mode, Ino: inode(s.path + "/" + name)})
	}
	return fs.NewListDirStream(out), 0
}

func (s *snapshotNode) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	at := path.Join(s.path, name)
	o, err := s.v.use(ctx, s.id)
	if err != nil {
		return nil, s.v.failed(ctx, at, err)
	}
	defer s.v.release(o)
	for _, stream := range o.Streams() {
		switch {
		case stream.Name == s.prefix+name:
			f := &fileNode{v: s.v, id: s.id, created: s.created, path: at, stream: stream}
			f.attributes(&out.Attr)
			return s.NewInode(ctx, f, fs.StableAttr{Mode: unix.S_IFREG, Ino: inode(at)}), 0
		case strings.HasPrefix(stream.Name, s.prefix+name+"/"):
			out.Mode = unix.S_IFDIR | 0o500
			setTimes(&out.Attr, s.created)
			return s.NewInode(ctx, &snapshotNode{v: s.v, id: s.id, created: s.created, path: at, prefix: s.prefix + name + "/"},
				fs.StableAttr{Mode: unix.S_IFDIR, Ino: inode(at)}), 0
		}
	}
	return nil, unix.ENOENT
}

// fileNode is a stream.
type fileNode struct {
	fs.Inode
	v       *view
	id      string
	created time.Time
	path    string
	stream  Stream
}

var (
	_ fs.NodeOpener    = (*fileNode)(nil)
	_ fs.NodeGetattrer = (*fileNode)(nil)
	_ fs.NodeSetattrer = (*fileNode)(nil)
)

func (f *fileNode) attributes(a *fuse.Attr) {
	a.Mode = unix.S_IFREG | 0o400
	a.Size = uint64(f.stream.Size)
	// Who copies a file looks for holes only where it takes less than its size.
	a.Blocks = uint64(max(0, (f.stream.Size+511)/512-1))
	a.Blksize = 4096
	setTimes(a, f.created)
}

func (f *fileNode) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	f.attributes(&out.Attr)
	return 0
}

func (f *fileNode) Setattr(context.Context, fs.FileHandle, *fuse.SetAttrIn, *fuse.AttrOut) syscall.Errno {
	return unix.EROFS
}

func (f *fileNode) Open(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	if flags&(unix.O_TRUNC|unix.O_APPEND) != 0 || flags&unix.O_ACCMODE == unix.O_WRONLY {
		return nil, 0, unix.EROFS
	}
	// Who may write could map the file shared, and change what others see in the kernel's cache. Direct I/O allows private mappings alone.
	// Closing asks nobody: there is nothing to be written, and who serves the mount may be the one who closes.
	how := uint32(fuse.FOPEN_KEEP_CACHE | fuse.FOPEN_NOFLUSH)
	if flags&unix.O_ACCMODE == unix.O_RDWR {
		how = fuse.FOPEN_DIRECT_IO | fuse.FOPEN_NOFLUSH
	}
	o, err := f.v.use(ctx, f.id)
	if err != nil {
		return nil, 0, f.v.failed(ctx, f.path, err)
	}
	file, err := o.File(f.stream.Name)
	if err != nil {
		f.v.release(o)
		return nil, 0, f.v.failed(ctx, f.path, err)
	}
	return &handle{f, o, file}, how, 0
}

// handle is an open file.
type handle struct {
	node *fileNode
	o    *opened
	file File
}

var (
	_ fs.FileReader   = (*handle)(nil)
	_ fs.FileLseeker  = (*handle)(nil)
	_ fs.FileWriter   = (*handle)(nil)
	_ fs.FileReleaser = (*handle)(nil)
)

func (h *handle) Read(ctx context.Context, dest []byte, offset int64) (fuse.ReadResult, syscall.Errno) {
	n, err := h.file.ReadContext(ctx, dest, offset)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, h.node.v.failed(ctx, h.node.path, err)
	}
	return fuse.ReadResultData(dest[:n]), 0
}

func (h *handle) Write(context.Context, []byte, int64) (uint32, syscall.Errno) { return 0, unix.EROFS }

func (h *handle) Lseek(ctx context.Context, offset uint64, whence uint32) (uint64, syscall.Errno) {
	size := h.node.stream.Size
	if int64(offset) < 0 || int64(offset) >= size {
		return 0, unix.ENXIO
	}
	if whence != unix.SEEK_DATA && whence != unix.SEEK_HOLE {
		return 0, unix.EINVAL
	}
	next, err := h.file.Next(ctx, int64(offset), whence == unix.SEEK_DATA)
	if err != nil {
		return 0, h.node.v.failed(ctx, h.node.path, err)
	}
	if next >= size && whence == unix.SEEK_DATA {
		return 0, unix.ENXIO
	}
	return uint64(next), 0
}

func (h *handle) Release(context.Context) syscall.Errno {
	h.node.v.release(h.o)
	return 0
}
