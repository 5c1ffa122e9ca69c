package store

import (
	"bufio"
	"io"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// holdsLock reports whether the kernel lists the process pid as the holder of the lock on a file.
// To try the lock instead would be in the way of others.
func holdsLock(pid int, file fs.FileInfo) bool {
	st, ok := file.Sys().(*syscall.Stat_t)
	if !ok {
		return false
	}
	f, err := os.Open("/proc/locks")
	if err != nil {
		return false
	}
	defer f.Close()
	return listsLock(f, pid, st.Ino)
}

// listsLock looks for an exclusive flock in what proc(5) calls /proc/locks. The device does not
// count: some file systems show another there than stat does.
func listsLock(locks io.Reader, pid int, inode uint64) bool {
	want := []string{"FLOCK", "ADVISORY", "WRITE", strconv.Itoa(pid)}
	suffix := ":" + strconv.FormatUint(inode, 10)
	lines := bufio.NewScanner(locks)
	for lines.Scan() {
		// "1: FLOCK  ADVISORY  WRITE 708 08:01:13548 0 EOF"; where a process waits, "->" is the second field.
		fields := strings.Fields(lines.Text())
		if len(fields) > 5 && slices.Equal(fields[1:5], want) && strings.HasSuffix(fields[5], suffix) {
			return true
		}
	}
	return false
}
