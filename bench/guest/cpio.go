package guest

import (
	"bufio"
	"fmt"
	"io"
	"time"
)

// File types of a cpio entry's mode: those of stat(2).
const (
	modeDirectory = 0o040000
	modeCharacter = 0o020000
	modeRegular   = 0o100000
	modeSymlink   = 0o120000
)

// A cpioWriter writes an archive in the format that the kernel unpacks an initramfs from, cpio's "newc" (the kernel's
// Documentation/driver-api/early-userspace/buffer-format.rst). Written here because an image then needs neither cpio nor
// root: device nodes and owners are entries like any other.
type cpioWriter struct {
	w     *bufio.Writer
	at    int64 // bytes written
	inode int
}

type cpioEntry struct {
	name         string // without a leading slash; its directory must have been written before
	mode         uint32 // type and permissions
	modified     time.Time
	size         int64
	major, minor int // of a device
}

func newCPIOWriter(w io.Writer) *cpioWriter {
	return &cpioWriter{w: bufio.NewWriterSize(w, 1<<16)}
}

// add writes one entry with size bytes of content. All files belong to root.
func (c *cpioWriter) add(e cpioEntry, content io.Reader) error {
	c.inode++
	links, seconds := 1, e.modified.Unix()
	if e.modified.IsZero() {
		seconds = 0
	}
	n, err := fmt.Fprintf(c.w, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%s\x00",
		c.inode, e.mode, 0, 0, links, seconds, e.size, 0, 0, e.major, e.minor, len(e.name)+1, 0, e.name)
	c.at += int64(n)
	if err != nil {
		return err
	}
	if err := c.align(); err != nil {
		return err
	}
	if e.size == 0 {
		return nil
	}
	copied, err := io.CopyN(c.w, content, e.size)
	c.at += copied
	if err != nil {
		return fmt.Errorf("cpio: %s: %w", e.name, err)
	}
	return c.align()
}

// close ends the archive. It does not close the writer below.
func (c *cpioWriter) close() error {
	if err := c.add(cpioEntry{name: "TRAILER!!!"}, nil); err != nil {
		return err
	}
	return c.w.Flush()
}

// align pads with zeros to the next multiple of four bytes.
func (c *cpioWriter) align() error {
	for ; c.at%4 != 0; c.at++ {
		if err := c.w.WriteByte(0); err != nil {
			return err
		}
	}
	return nil
}
