package guest

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"syscall"
)

// tieToParent makes the kernel kill the command's process when this one dies, however it dies.
func tieToParent(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}

// whence values of lseek(2).
const (
	seekData = 3
	seekHole = 4
)

// nextData returns the bounds of the first data of f at or after offset at; size, size when there is none. It moves the
// file's offset.
func nextData(f *os.File, at, size int64) (start, end int64, err error) {
	start, err = f.Seek(at, seekData)
	if errors.Is(err, syscall.ENXIO) {
		return size, size, nil
	}
	if errors.Is(err, syscall.EINVAL) { // a file system that knows no holes
		_, err = f.Seek(0, io.SeekStart)
		return at, size, err
	}
	if err != nil {
		return 0, 0, err
	}
	end, err = f.Seek(start, seekHole)
	return start, end, err
}

// freeBytes returns the free space of the file system that dir is on, 0 if that cannot be told.
func freeBytes(dir string) int64 {
	var stat syscall.Statfs_t
	if err := syscall.Statfs(dir, &stat); err != nil {
		return 0
	}
	return int64(stat.Bavail) * stat.Bsize
}
