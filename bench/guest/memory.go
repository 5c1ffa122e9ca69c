package guest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
)

// openMemory makes the file that is to be the guest's RAM, or opens that of a saved guest, and settles the options that
// depend on it.
func (g *Guest) openMemory() error {
	o := &g.opts
	if o.Incoming != "" {
		return g.openSavedMemory()
	}
	if o.MemoryBytes == 0 {
		o.MemoryBytes = DefaultMemoryBytes
	}
	if err := checkMemoryBytes(o.MemoryBytes); err != nil {
		return err
	}
	var err error
	if o.MemoryPath == "" {
		g.memory, err = os.CreateTemp(memoryDirectory(o.MemoryBytes), "arcstore-guest-*.ram")
		if err == nil {
			g.ownFile = true
			o.MemoryPath = g.memory.Name()
		}
	} else {
		g.memory, err = os.OpenFile(o.MemoryPath, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	}
	if err != nil {
		return err
	}
	return g.memory.Truncate(o.MemoryBytes)
}

func (g *Guest) openSavedMemory() error {
	o := &g.opts
	if o.MemoryPath == "" {
		return errors.New("a device state without the memory of its moment")
	}
	var err error
	if g.memory, err = os.Open(o.MemoryPath); err != nil {
		return err
	}
	info, err := g.memory.Stat()
	if err != nil {
		return err
	}
	if o.MemoryBytes != 0 && o.MemoryBytes != info.Size() {
		return fmt.Errorf("%s has %d bytes, not %d", o.MemoryPath, info.Size(), o.MemoryBytes)
	}
	o.MemoryBytes = info.Size()
	return checkMemoryBytes(o.MemoryBytes)
}

func checkMemoryBytes(n int64) error {
	if n <= 0 || n > 3<<30 || n%(1<<20) != 0 {
		return fmt.Errorf("memory of %d bytes: not a multiple of 1 MiB up to 3 GiB", n)
	}
	return nil
}

// memoryDirectory returns where a RAM file of n bytes is best made: in memory if there is room, since a running guest
// dirties its RAM faster than a disk writes.
func memoryDirectory(n int64) string {
	const inMemory = "/dev/shm"
	if freeBytes(inMemory) > n+n/4 {
		return inMemory
	}
	return os.TempDir()
}

// errPrivateMemory is the error of saving a guest whose RAM is in no file: QEMU would put the RAM with the device state.
var errPrivateMemory = errors.New("the guest's memory is private")

// CopyMemory writes the RAM of the paused guest to the file path, which is made or emptied. Runs of zeros are holes in the
// copy, but short ones are not: in that it is like a RAM file that no guest has swept. On a running guest it fails with
// [ErrRunning], and on one with private memory it always fails.
func (g *Guest) CopyMemory(ctx context.Context, path string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	err := func() error {
		if !g.paused {
			return ErrRunning
		}
		if g.opts.PrivateMemory {
			return errPrivateMemory
		}
		return copySparse(ctx, path, g.memory, g.opts.MemoryBytes)
	}()
	if err != nil {
		return fmt.Errorf("guest: copy memory: %w", err)
	}
	return nil
}

// holeBytes is the piece of a file that copySparse makes a hole of where it is all zeros.
const holeBytes = 64 << 10

// copySparse writes size bytes of source to a file.
func copySparse(ctx context.Context, path string, source *os.File, size int64) error {
	target, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer target.Close()
	if err := target.Truncate(size); err != nil {
		return err
	}
	buf, zeros := make([]byte, holeBytes), make([]byte, holeBytes)
	for at := int64(0); at < size; {
		start, end, err := nextData(source, at, size)
		if err != nil {
			return err
		}
		for at = start - start%holeBytes; at < end; at += holeBytes {
			if err := ctx.Err(); err != nil {
				return err
			}
			n, err := source.ReadAt(buf[:min(holeBytes, size-at)], at)
			if err != nil && err != io.EOF {
				return err
			}
			if bytes.Equal(buf[:n], zeros[:n]) {
				continue
			}
			if _, err := target.WriteAt(buf[:n], at); err != nil {
				return err
			}
		}
	}
	return target.Close()
}
