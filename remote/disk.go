package remote

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/arcboxlabs/arcstore/store"
	"github.com/arcboxlabs/arcstore/store/disk"
)

// Disk returns the bucket as a disk that has a store's files, for reading: what reads a store reads a bucket with it. The
// store is in the directory [DiskDir]. Requests stop with ctx. It costs nothing to have one; what is opened is looked for then.
func (r *Remote) Disk(ctx context.Context) *Disk {
	return &Disk{ctx: ctx, r: r, packs: make(map[string]Pack), manifests: make(map[string]Manifest),
		near: make(map[string][][]string), chains: make(map[string][]Manifest), ahead: make(map[string]*object)}
}

// ReadAround has the disk read more than it is asked for, and keep it in a file that has no name: for who reads packs here and there. Close ends that.
func (d *Disk) ReadAround() error {
	if d.blocks.Load() != nil {
		return nil
	}
	b, err := newBlocks()
	if err == nil && !d.blocks.CompareAndSwap(nil, b) {
		b.close()
	}
	return err
}

// Close lets go of what ReadAround made. Nobody may be reading.
func (d *Disk) Close() error {
	if b := d.blocks.Swap(nil); b != nil {
		return b.close()
	}
	return nil
}

// DiskDir is where the store is on a Disk.
const DiskDir = "bucket"

// Near returns the IDs of the packs that hold parts of the memory of a snapshot, whose entry was read: for each NearChunks chunks those that
// hold them. It is a hint; nil where nobody knows.
func (d *Disk) Near(id string) [][]string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.near[id]
}

// near returns Near as packs.
func (s *Snapshot) near() [][]string {
	near := make([][]string, len(s.Near))
	for i, numbers := range s.Near {
		for _, n := range numbers {
			if n >= 0 && n < len(s.Packs) {
				near[i] = append(near[i], s.Packs[n].ID)
			}
		}
	}
	return near
}

// Disk shows a bucket's objects under the names that the files of a store have.
type Disk struct {
	ctx context.Context
	r   *Remote

	mu        sync.Mutex
	packs     map[string]Pack       // by ID: where those lie that snapshots named
	manifests map[string]Manifest   // likewise, by digest
	all       bool                  // all index objects were looked at
	near      map[string][][]string // by snapshot's ID: its Near, as packs
	chains    map[string][]Manifest // by digest: the snapshot's manifest, and the ancestors that it is read with
	ahead     map[string]*object    // of these: what is read before it is opened

	listed map[string][]string // by ID: the keys that a listing found of a snapshot that was not opened since

	spans  spans
	blocks atomic.Pointer[blocks] // nil unless parts are read here and there

	deadOnce sync.Once
	dead     *dead // what was condemned when the first snapshot was opened
}

// names of directories
const (
	packsDir     = "packs"
	manifestsDir = "manifests"
	snapshotsDir = "snapshots"
	workingDir   = "working-sets"
	entrySuffix  = ".json"
	configCopy   = "config.copy"
)

// split returns the directory of the store that a file is in, and its name there.
func split(name string) (dir, base string) {
	rest, _ := strings.CutPrefix(filepath.ToSlash(name), DiskDir+"/")
	dir, rest, ok := strings.Cut(rest, "/")
	if !ok {
		return "", dir
	}
	return dir, path.Base(path.Clean(rest))
}

func (d *Disk) Open(name string) (disk.File, error) {
	f, err := d.open(name)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return f, nil
}

func (d *Disk) open(name string) (disk.File, error) {
	switch dir, base := split(name); {
	case dir == "" && (base == configKey || base == configCopy) && d.r.config != nil:
		return newSmall(base, d.r.config), nil
	case dir == snapshotsDir && strings.HasSuffix(base, entrySuffix):
		return d.entry(strings.TrimSuffix(base, entrySuffix))
	case dir == workingDir:
		b, err := d.r.workingSet(d.ctx, base)
		if b == nil && err == nil {
			err = fs.ErrNotExist
		}
		return newSmall(base, b), err
	case dir == packsDir:
		p, err := find(d, d.packs, base)
		if err != nil {
			return nil, err
		}
		id, _ := store.ParsePackID(p.ID)
		return &object{d: d, name: base, key: packPart(p.Upload, id).key(), size: p.Size, tail: p.Table + tailAlong}, nil
	case dir == manifestsDir:
		if o := d.readAhead(base); o != nil {
			return o, nil
		}
		m, err := find(d, d.manifests, base)
		if err != nil {
			return nil, err
		}
		return d.manifest(m), nil
	}
	return nil, fs.ErrNotExist
}

const (
	// tailAlong is what follows a pack's table.
	tailAlong = 64
	// manifestAlong is how much of a manifest's end is read at once, in bytes: small ones are read whole.
	manifestAlong = 256 << 10
)

func (d *Disk) manifest(m Manifest) *object {
	return &object{d: d, name: m.Digest.String(), key: manifestPart(m.Upload, m.Digest).key(), size: m.Size, tail: min(m.Size, manifestAlong)}
}

// readAhead returns a manifest that is read already, nil if it is not. With a snapshot's manifest, it begins to read all
// that it is the difference to: each of them names the next one only.
func (d *Disk) readAhead(digest string) *object {
	d.mu.Lock()
	defer d.mu.Unlock()
	if chain := d.chains[digest]; len(chain) > 1 {
		delete(d.chains, digest) // once
		for _, m := range chain {
			o := d.manifest(m)
			d.ahead[o.name] = o
			d.r.reading.Go(func() { o.readEnd() }) // an error shows when it is read again
		}
	}
	o := d.ahead[digest]
	delete(d.ahead, digest)
	return o
}

// find looks where a part lies: as a snapshot that was opened says, or any index object.
func find[T any](d *Disk, where map[string]T, name string) (T, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	at, ok := where[name]
	if !ok {
		if err := d.readAll(); err != nil {
			return at, err
		}
		at, ok = where[name]
	}
	if !ok {
		return at, fs.ErrNotExist
	}
	return at, nil
}

// readAll reads all index objects; the caller holds mu.
func (d *Disk) readAll() error {
	if d.all {
		return nil
	}
	v, err := d.r.look(d.ctx)
	if err != nil {
		return err
	}
	for id, u := range v.packs {
		name := id.String()
		if _, ok := d.packs[name]; !ok {
			p := v.uploads[u].pack(id)
			d.packs[name] = Pack{ID: name, Upload: u, Size: p.size, Table: p.tableSize}
		}
	}
	for digest, m := range v.manifests {
		if _, ok := d.manifests[digest.String()]; !ok {
			d.manifests[digest.String()] = m
		}
	}
	d.all = true
	return nil
}

// entry returns a snapshot's catalogue entry.
func (d *Disk) entry(id string) (disk.File, error) {
	alive := make(chan struct{})
	go func() { // it is a long way
		defer close(alive)
		d.readDead()
	}()
	defer func() { <-alive }()
	keys, err := d.keys(id)
	if err != nil {
		return nil, err
	}
	var newest *Snapshot
	err = d.r.readSnapshots(d.ctx, keys, func(s *Snapshot) {
		if newest == nil || s.key > newest.key {
			newest = s
		}
	})
	if err != nil {
		return nil, err
	}
	if newest == nil {
		return nil, fs.ErrNotExist
	}
	<-alive
	d.checkAlive(newest)
	return d.show(newest)
}

// checkAlive warns of a snapshot that needs what a collection condemned. Collections keep it for as long as that snapshot is
// there, and pushes do not report success before they have replaced it: so it is not to be seen for long.
func (d *Disk) checkAlive(s *Snapshot) {
	if d.dead == nil || d.dead.keys[s.key] {
		return
	}
	for _, p := range s.parts() {
		if d.dead.has(p) {
			d.r.warn(fmt.Sprintf("snapshot %s needs %s, which a gc has condemned: it is being pushed, or should be pushed again", s.Entry.ID, p.key()))
			return
		}
	}
}

// readDead reads what was condemned, once.
func (d *Disk) readDead() {
	d.deadOnce.Do(func() {
		records, err := d.r.records(d.ctx)
		if err != nil {
			return // whatever that is, it shows when something is read
		}
		d.dead = newDead()
		for _, rec := range records {
			d.dead.add(rec)
		}
	})
}

// keys lists the objects of a snapshot, as a listing of all has just found them.
func (d *Disk) keys(id string) ([]string, error) {
	d.mu.Lock()
	listed := d.listed[id]
	delete(d.listed, id) // once
	d.mu.Unlock()
	if len(listed) > 0 {
		return listed, nil
	}
	return d.r.list(d.ctx, snapshotsPrefix+id+"/")
}

// condemned reports whether a collection has condemned a part, as far as is known.
func (d *Disk) condemned(p part) bool { return d.dead != nil && d.dead.has(p) }

// show notes where the parts of a snapshot lie, and returns its entry's file.
func (d *Disk) show(s *Snapshot) (disk.File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	e := *s.Entry
	e.Packs = nil
	// What was condemned, perhaps since it was lost, may be there again with another upload.
	for _, p := range s.Packs {
		id, err := store.ParsePackID(p.ID)
		if _, known := d.packs[p.ID]; !known || err != nil || !d.condemned(packPart(p.Upload, id)) {
			d.packs[p.ID] = p
		}
		e.Packs = append(e.Packs, p.ID)
	}
	d.near[e.ID] = s.near()
	for _, m := range s.Manifests {
		if _, known := d.manifests[m.Digest.String()]; !known || !d.condemned(manifestPart(m.Upload, m.Digest)) {
			d.manifests[m.Digest.String()] = m
		}
	}
	d.chains[e.Manifest.String()] = s.Manifests
	b, err := e.Encode()
	if err != nil {
		return nil, err
	}
	return newSmall(e.ID+entrySuffix, b), nil
}

// ReadDir lists a directory of the store.
func (d *Disk) ReadDir(name string) ([]fs.DirEntry, error) {
	dir, base := split(name + "/.")
	switch {
	case dir == snapshotsDir:
		return d.readSnapshots()
	case dir == packsDir || dir == manifestsDir:
		d.mu.Lock()
		defer d.mu.Unlock()
		if err := d.readAll(); err != nil {
			return nil, &fs.PathError{Op: "list", Path: name, Err: err}
		}
		sizes := make(map[string]int64)
		for id, p := range d.packs {
			if dir == packsDir {
				sizes[id] = p.Size
			}
		}
		for digest, m := range d.manifests {
			if dir == manifestsDir {
				sizes[digest] = m.Size
			}
		}
		return fanOut(sizes, base), nil
	}
	return nil, &fs.PathError{Op: "list", Path: name, Err: fs.ErrNotExist}
}

// fanOut lists files by name, or where sub is "." the directories named after their first two digits.
func fanOut(sizes map[string]int64, sub string) []fs.DirEntry {
	seen := make(map[string]bool)
	var found []fs.DirEntry
	for name, size := range sizes {
		switch {
		case sub != ".":
			if name[:2] == sub {
				found = append(found, fs.FileInfoToDirEntry(info{name: name, size: size}))
			}
		case !seen[name[:2]]:
			seen[name[:2]] = true
			found = append(found, fs.FileInfoToDirEntry(info{name: name[:2], dir: true}))
		}
	}
	slices.SortFunc(found, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return found
}

func (d *Disk) readSnapshots() ([]fs.DirEntry, error) {
	keys, err := d.r.list(d.ctx, snapshotsPrefix)
	if err != nil {
		return nil, err
	}
	var found []fs.DirEntry
	listed := make(map[string][]string)
	for _, key := range keys {
		if id, _, err := parseSnapshotKey(key); err == nil {
			if listed[id] == nil {
				found = append(found, fs.FileInfoToDirEntry(info{name: id + entrySuffix}))
			}
			listed[id] = append(listed[id], key)
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.listed = listed
	return found, nil
}

func (d *Disk) Stat(name string) (fs.FileInfo, error) {
	f, err := d.Open(name)
	if err != nil {
		return nil, err
	}
	return f.Stat()
}

// errReadOnly is the error of what would change a bucket.
var errReadOnly = fmt.Errorf("remote: %w: a bucket is only read this way", errors.ErrUnsupported)

func (d *Disk) Mkdir(string) error               { return errReadOnly }
func (d *Disk) Create(string) (disk.File, error) { return nil, errReadOnly }
func (d *Disk) Rename(string, string) error      { return errReadOnly }
func (d *Disk) Remove(string) error              { return errReadOnly }
func (d *Disk) SyncDir(string) error             { return errReadOnly }

// object is an object as a file.
type object struct {
	d    *Disk
	name string
	key  string
	size int64

	mu   sync.Mutex
	tail int64  // bytes at the end that are read together, since they are wanted together
	end  []byte // these
}

func (o *object) ReadAt(p []byte, off int64) (int, error) {
	if off >= o.size {
		return 0, io.EOF
	}
	var eof error
	if n := o.size - off; int64(len(p)) > n {
		p, eof = p[:n], io.EOF
	}
	if off >= o.size-o.tail {
		end, err := o.readEnd()
		if err != nil {
			return 0, err
		}
		return copy(p, end[off-(o.size-o.tail):]), eof
	}
	if b := o.d.blocks.Load(); b != nil && len(p) < blockSize {
		if err := b.read(o.key, o.size, p, off, o.read); err != nil {
			return 0, err
		}
		return len(p), eof
	}
	if !o.d.spans.read(o.key, p, off) {
		if err := o.read(p, off); err != nil {
			return 0, err
		}
		o.d.spans.keep(o.key, p, off)
	}
	return len(p), eof
}

func (o *object) readEnd() ([]byte, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.end == nil {
		end := make([]byte, o.tail)
		if err := o.read(end, o.size-o.tail); err != nil {
			return nil, err
		}
		o.end = end
	}
	return o.end, nil
}

// read reads from the bucket. An object that is shorter than it was is damaged; one that is gone was
// deleted; all else says nothing about it.
func (o *object) read(p []byte, off int64) error {
	err := o.d.r.bucket.ReadAt(o.d.ctx, o.key, p, off)
	switch {
	case errors.Is(err, ErrNoObject):
		return &fs.PathError{Op: "read", Path: o.key, Err: fs.ErrNotExist}
	case errors.Is(err, io.ErrUnexpectedEOF):
		return io.EOF
	case err != nil:
		return fmt.Errorf("remote: read %s: %w", o.key, err)
	}
	return nil
}

func (o *object) Name() string              { return o.name }
func (o *object) Close() error              { return nil }
func (o *object) Sync() error               { return nil }
func (o *object) Write([]byte) (int, error) { return 0, errReadOnly }
func (o *object) Stat() (fs.FileInfo, error) {
	return info{name: o.name, size: o.size}, nil
}

// small is a file in memory.
type small struct {
	*bytes.Reader
	name string
}

func newSmall(name string, b []byte) small { return small{bytes.NewReader(b), name} }

func (s small) Name() string              { return s.name }
func (s small) Close() error              { return nil }
func (s small) Sync() error               { return nil }
func (s small) Write([]byte) (int, error) { return 0, errReadOnly }
func (s small) Stat() (fs.FileInfo, error) {
	return info{name: s.name, size: s.Size()}, nil
}

// info is what is known of a file.
type info struct {
	name string
	size int64
	dir  bool
}

func (i info) Name() string       { return i.name }
func (i info) Size() int64        { return i.size }
func (i info) ModTime() time.Time { return time.Time{} }
func (i info) IsDir() bool        { return i.dir }
func (i info) Sys() any           { return nil }
func (i info) Mode() fs.FileMode {
	if i.dir {
		return fs.ModeDir | 0o700
	}
	return 0o600
}
