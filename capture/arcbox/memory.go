package arcbox

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"

	"github.com/pierrec/lz4/v4"
)

// maxRatio is how many bytes one of an LZ4 block can stand for.
const maxRatio = 255

// OpenMemory opens the memory of a VM's snapshot, of size bytes as its state says. A compressed one is unpacked into a file in
// scratch, which has no name. It must be closed.
func OpenMemory(dir string, s *State, scratch string) (*os.File, error) {
	name := s.memoryFile()
	if err := CheckMemory(dir, s); err != nil {
		return nil, err
	}
	f, err := os.Open(filepath.Join(dir, name))
	if err != nil {
		return nil, fmt.Errorf("arcbox: %w", err)
	}
	if s.Compressed {
		packed := f
		f, err = unpack(packed, scratch)
		packed.Close()
		if err != nil {
			return nil, fmt.Errorf("arcbox: %s: %w", name, err)
		}
	}
	info, err := f.Stat()
	if err == nil {
		err = s.checkSize(name, info.Size())
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("arcbox: %w", err)
	}
	return f, nil
}

func (s *State) memoryFile() string {
	if s.Compressed {
		return CompressedFile
	}
	return MemoryFile
}

func (s *State) checkSize(name string, size int64) error {
	if size != int64(s.TotalMemory) {
		return fmt.Errorf("%w: %s has %d bytes of memory, and the state speaks of %d", ErrDamaged, name, size, s.TotalMemory)
	}
	return nil
}

// CheckMemory looks at the memory's file without reading it: whether it is there, and has the size that the state says unless it is compressed.
func CheckMemory(dir string, s *State) error {
	name := s.memoryFile()
	info, err := os.Stat(filepath.Join(dir, name))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = fmt.Errorf("%w: %s is missing", ErrDamaged, name)
	case err == nil && !s.Compressed:
		err = s.checkSize(name, info.Size())
	}
	if err != nil {
		return fmt.Errorf("arcbox: %w", err)
	}
	return nil
}

// allocate gives a file its size, and the room that this takes.
func allocate(f *os.File, size int64) error {
	zeros := make([]byte, 1<<20)
	for at := int64(0); at < size; at += int64(len(zeros)) {
		if _, err := f.WriteAt(zeros[:min(size-at, int64(len(zeros)))], at); err != nil {
			return err
		}
	}
	return nil
}

// unpack decompresses what the predecessor's lz4_flex wrote: the length, 4 bytes, little-endian, and one LZ4 block. Both
// are mapped: a block has to lie in memory as a whole.
func unpack(packed *os.File, scratch string) (*os.File, error) {
	info, err := packed.Stat()
	if err != nil {
		return nil, err
	}
	var head [4]byte
	if _, err := packed.ReadAt(head[:], 0); errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: it is too short", ErrDamaged)
	} else if err != nil {
		return nil, err
	}
	size, block := int64(binary.LittleEndian.Uint32(head[:])), info.Size()-int64(len(head))
	if size > block*maxRatio {
		return nil, fmt.Errorf("%w: %d bytes cannot stand for %d", ErrDamaged, block, size)
	}
	f, err := os.CreateTemp(scratch, ".memory-")
	if err != nil {
		return nil, err
	}
	os.Remove(f.Name())
	if size > 0 {
		if err = allocate(f, size); err == nil {
			err = decompress(f, packed, size, info.Size(), len(head))
		}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func decompress(to, from *os.File, size, packedSize int64, head int) (err error) {
	// A file that shrinks while it is mapped, or a disk that fails, is a fault in memory.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if fault := recover(); fault != nil {
			err = fmt.Errorf("a file could not be read or written while it was unpacked: %v", fault)
		}
	}()
	src, unmapSrc, err := mapFile(from, packedSize, false)
	if err != nil {
		return err
	}
	defer unmapSrc()
	dst, unmapDst, err := mapFile(to, size, true)
	if err != nil {
		return err
	}
	defer unmapDst()
	n, err := lz4.UncompressBlock(src[head:], dst)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if int64(n) != size {
		return fmt.Errorf("%w: it holds %d bytes, and says %d", ErrDamaged, n, size)
	}
	return nil
}
