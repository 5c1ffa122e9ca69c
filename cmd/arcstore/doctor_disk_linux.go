package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

const (
	littleSpace = 1 << 30 // bytes free below which a disk is called nearly full
	fewInodes   = 1000    // likewise; a store takes some for every pack and snapshot
)

// keeping is how well a kind of file system keeps files.
type keeping int

const (
	keepsHere    keeping = iota // on a disk of this machine
	keepsInRAM                  // until the machine ends
	keepsAsOther                // as well as whoever serves it does
)

// fileSystems are the kinds that are known, by their magic numbers, statfs(2).
var fileSystems = map[uint32]struct {
	name  string
	keeps keeping
}{
	unix.BCACHEFS_SUPER_MAGIC:  {"bcachefs", keepsHere},
	unix.BTRFS_SUPER_MAGIC:     {"btrfs", keepsHere},
	unix.EXT4_SUPER_MAGIC:      {"ext4", keepsHere}, // ext2 and ext3 have the same
	unix.F2FS_SUPER_MAGIC:      {"f2fs", keepsHere},
	unix.OVERLAYFS_SUPER_MAGIC: {"overlay", keepsHere},
	unix.XFS_SUPER_MAGIC:       {"xfs", keepsHere},
	0x2fc12fc1:                 {"zfs", keepsHere},
	unix.RAMFS_MAGIC:           {"ramfs", keepsInRAM},
	unix.TMPFS_MAGIC:           {"tmpfs", keepsInRAM},
	unix.AFS_SUPER_MAGIC:       {"afs", keepsAsOther},
	unix.CEPH_SUPER_MAGIC:      {"ceph", keepsAsOther},
	unix.CIFS_SUPER_MAGIC:      {"cifs", keepsAsOther},
	unix.FUSE_SUPER_MAGIC:      {"fuse", keepsAsOther},
	unix.NFS_SUPER_MAGIC:       {"nfs", keepsAsOther},
	unix.SMB2_SUPER_MAGIC:      {"smb2", keepsAsOther},
	unix.SMB_SUPER_MAGIC:       {"smb", keepsAsOther},
	unix.V9FS_MAGIC:            {"9p", keepsAsOther},
}

// space is what statfs tells of a file system.
type space struct {
	kind   uint32
	bytes  int64 // free, for users other than root
	inodes int64 // free; -1 where there is no limit
}

func spaceIn(dir string) (space, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return space{}, &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	s := space{uint32(fs.Type), int64(fs.Bavail) * int64(fs.Bsize), int64(fs.Ffree)}
	if fs.Files == 0 {
		s.inodes = -1
	}
	return s, nil
}

// judgeSpace tells what a file system is good for. lasting is for files that are to stay.
func judgeSpace(s space, lasting bool) finding {
	kind, known := fileSystems[s.kind]
	if !known {
		kind.name = fmt.Sprintf("file system %#x", s.kind)
	}
	f := finding{Status: statusOK, Found: fmt.Sprintf("%s, %s free", kind.name, size(s.bytes))}
	if s.inodes >= 0 {
		f.Found += ", " + plural(s.inodes, "inode", "inodes")
	}
	switch {
	case s.bytes == 0 || s.inodes == 0:
		f.Status, f.Advice = statusMissing, "free some space"
	case s.bytes < littleSpace || s.inodes >= 0 && s.inodes < fewInodes:
		f.Status, f.Advice = statusLimited, "free some space"
	case lasting && kind.keeps == keepsInRAM:
		f.Status, f.Advice = statusLimited, "move it to a disk: what is here is gone when the machine ends"
	case lasting && kind.keeps == keepsAsOther:
		f.Status, f.Advice = statusLimited, "move it to a local disk: locks and syncs are worth what the server makes of them"
	}
	return f
}

func checkTemporaryDirectory(context.Context) (finding, error) {
	dir := os.TempDir()
	s, err := spaceIn(dir)
	if err != nil {
		return finding{statusMissing, problem(err), "make it, or set TMPDIR to a directory that is there"}, nil
	}
	f := judgeSpace(s, false)
	if f.Status != statusOK {
		f.Advice += ", or set TMPDIR to a directory with more"
	}
	f.Found = dir + ": " + f.Found
	return f, nil
}

func checkStoreSpace(dir string) (finding, error) {
	s, err := spaceIn(dir)
	if err != nil {
		return finding{Status: statusMissing, Found: problem(err)}, nil
	}
	return judgeSpace(s, true), nil
}

// checkHoles tries whether the file system of dir tells data from holes.
func checkHoles(dir string) (finding, error) {
	const end, data = 8 << 20, 4 << 20
	f, other, err := scratch(dir)
	if err != nil {
		return noScratch(err), nil
	}
	defer f.Close()
	defer other.Close()
	if err = f.Truncate(end); err == nil {
		_, err = f.WriteAt([]byte("data"), data)
	}
	if err != nil {
		return noScratch(err), nil
	}
	const advice = "use a file system that can: restored memory takes as much space here as the guest has, and is slow to read"
	first, err := f.Seek(0, unix.SEEK_DATA)
	if err != nil {
		return finding{statusMissing, problem(err), advice}, nil
	}
	hole, err := f.Seek(data, unix.SEEK_HOLE)
	switch {
	case err != nil:
		return finding{statusMissing, problem(err), advice}, nil
	case first == 0 || hole == end:
		return finding{statusMissing, "holes look like zeros here", advice}, nil
	}
	return finding{Status: statusOK, Found: "SEEK_HOLE finds holes"}, nil
}

// checkFlock tries whether the file system of dir grants a lock to one holder only.
func checkFlock(dir string) (finding, error) {
	f, other, err := scratch(dir)
	if err != nil {
		return noScratch(err), nil
	}
	defer f.Close()
	defer other.Close()
	const advice = "move the store to a local disk: nothing keeps two processes from writing to it at once here"
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return finding{statusMissing, "flock: " + problem(err), advice}, nil
	}
	switch err := unix.Flock(int(other.Fd()), unix.LOCK_EX|unix.LOCK_NB); {
	case err == nil:
		return finding{statusMissing, "flock lets two in at once", advice}, nil
	case !errors.Is(err, unix.EWOULDBLOCK):
		return finding{statusMissing, "flock: " + problem(err), advice}, nil
	}
	return finding{Status: statusOK, Found: "flock lets one in at a time"}, nil
}

// scratch opens a file in dir twice that has no name anymore: it goes with its descriptors.
func scratch(dir string) (*os.File, *os.File, error) {
	f, err := os.CreateTemp(dir, ".doctor-*")
	if err != nil {
		return nil, nil, err
	}
	other, err := os.OpenFile(f.Name(), os.O_RDWR, 0)
	if err = errors.Join(err, os.Remove(f.Name())); err != nil {
		f.Close()
		if other != nil {
			other.Close()
		}
		return nil, nil, err
	}
	return f, other, nil
}

// noScratch is the finding where no file can be written to try something with.
func noScratch(err error) finding {
	if errors.Is(err, unix.EROFS) {
		return finding{statusLimited, "not tried: it is a read-only file system", "nothing, if the store is only read here"}
	}
	return finding{statusLimited, "not tried: " + problem(err), "free some space, or run as the user who owns the directory"}
}
