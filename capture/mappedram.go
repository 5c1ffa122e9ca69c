package capture

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"

	"github.com/arcboxlabs/arcstore/chunker"
)

// QEMU's migration stream, in a file with mapped-ram, as QEMU 9 and later write it (docs/devel/migration/main.rst, mapped-ram.rst and
// migration/savevm.c, ram.c there). All numbers are big-endian.
const (
	qemuMagic         = 0x5145564d // "QEVM"
	qemuVersion       = 3
	qemuConfiguration = 0x07
	qemuSubsection    = 0x05
	qemuSectionStart  = 0x01
	qemuCapabilities  = "configuration/capabilities"
	qemuRAM           = "ram"
	qemuMappedRAM     = "mapped-ram"
	qemuIgnoreShared  = "x-ignore-shared"
	qemuRAMFlags      = chunker.PageSize - 1
	qemuRAMMemSize    = 0x04

	mappedRAMVersion = 1
	maxRAMBlocks     = 1 << 12
	maxCapabilities  = 1 << 8
	maxMachineName   = 1 << 10
)

// OpenMappedRAM opens a file that QEMU has migrated a guest to with the capability mapped-ram. It must be closed. Its memory is that of all RAM
// blocks, one after the other, in the order of the file.
func OpenMappedRAM(name string) (*Dump, error) {
	return openDump(name, (*Dump).openMappedRAM)
}

// ramBlock is a block of a guest's memory in the file.
type ramBlock struct {
	name   string
	pages  DumpRange
	bitmap int64 // offset in the file
}

func (d *Dump) openMappedRAM() error {
	blocks, err := readRAMBlocks(d.file)
	if err != nil {
		return fmt.Errorf("%w: it is no migration file with mapped-ram: %w", ErrInvalid, err)
	}
	l := &DumpLayout{Format: dumpLayoutVersion, Kind: KindMappedRAM, Size: d.file.Size()}
	memory := mappedRAM{}
	at := int64(0)
	for _, b := range blocks {
		b.pages.At, b.pages.Name = at, b.name
		l.Memory = append(l.Memory, b.pages)
		at += b.pages.Length
		bitmap := make([]byte, (b.pages.Length/chunker.PageSize+63)/64*8)
		if err := chunker.ReadFull(d.file, bitmap, b.bitmap); err != nil {
			return err
		}
		memory.bitmaps = append(memory.bitmaps, bitmap)
	}
	if err := l.check(); err != nil {
		return err
	}
	memory.carved = carved{d.file, l.Memory, l.MemorySize()}
	return d.describe(l, memory, nil)
}

// mappedRAM is the memory of such a file: a page whose bit is clear is zero, whatever is there from an earlier round.
type mappedRAM struct {
	carved
	bitmaps [][]byte
}

// present reports whether the page at off of part i is in the file.
func (m mappedRAM) present(i int, off int64) bool {
	page := (off - m.parts[i].At) / chunker.PageSize
	return m.bitmaps[i][page/8]&(1<<(page%8)) != 0
}

// ReadAt implements chunker.Source.
func (m mappedRAM) ReadAt(p []byte, off int64) (n int, err error) {
	n, err = m.carved.ReadAt(p, off)
	for at := off; at < off+int64(n); {
		next := min(at-at%chunker.PageSize+chunker.PageSize, off+int64(n))
		if !m.present(m.part(at), at) {
			clear(p[at-off : next-off])
		}
		at = next
	}
	return n, err
}

// NextData implements chunker.HoleFinder by the bitmaps.
func (m mappedRAM) NextData(off int64) (start, end int64, err error) {
	find := func(from int64, set bool) int64 {
		for i := m.part(from); i < len(m.parts); i++ {
			part := m.parts[i]
			first := (max(from, part.At) - part.At) / chunker.PageSize
			pages := part.Length / chunker.PageSize
			for page := first; page < pages; {
				word := binary.LittleEndian.Uint64(m.bitmaps[i][page/64*8:]) >> (page % 64)
				if !set {
					word = ^word
				}
				if skip := int64(bits.TrailingZeros64(word)); skip < 64-page%64 {
					if page += skip; page < pages {
						return part.At + page*chunker.PageSize
					}
					break
				}
				page += 64 - page%64
			}
		}
		return m.size
	}
	if start = find(off, true); start >= m.size {
		return m.size, m.size, nil
	}
	return max(start, off), find(start, false), nil
}

// migration reads what comes before, and between, the blocks.
type migration struct {
	file *File
	at   int64
	err  error
}

func (r *migration) bytes(n int) []byte {
	b := make([]byte, n)
	if r.err == nil {
		r.err = chunker.ReadFull(r.file, b, r.at)
		r.at += int64(n)
		if errors.Is(r.err, io.EOF) || errors.Is(r.err, io.ErrUnexpectedEOF) {
			r.err = errors.New("it is cut off")
		}
	}
	return b
}

func (r *migration) u8() uint8       { return r.bytes(1)[0] }
func (r *migration) u32() uint32     { return binary.BigEndian.Uint32(r.bytes(4)) }
func (r *migration) u64() uint64     { return binary.BigEndian.Uint64(r.bytes(8)) }
func (r *migration) counted() string { return string(r.bytes(int(r.u8()))) }

// want fails unless ok.
func (r *migration) want(ok bool, format string, args ...any) bool {
	if r.err == nil && !ok {
		r.err = fmt.Errorf(format, args...)
	}
	return r.err == nil
}

// readRAMBlocks reads the blocks of a file.
func readRAMBlocks(f *File) ([]ramBlock, error) {
	r := &migration{file: f}
	if !r.want(r.u32() == qemuMagic, "it is not QEMU's") || !r.want(r.u32() == qemuVersion, "it has another version") {
		return nil, r.err
	}
	capabilities := r.configuration()
	mapped, shared := false, false
	for _, c := range capabilities {
		mapped = mapped || c == qemuMappedRAM
		shared = shared || c == qemuIgnoreShared
	}
	kind := r.u8()
	if !r.want(mapped, "it was made without that capability") || !r.want(!shared, "its memory is in files that were shared, and not in it") ||
		!r.want(kind == qemuSectionStart, "a section of kind %#x comes first", kind) {
		return nil, r.err
	}
	r.u32() // the section's number
	name := r.counted()
	r.u32() // instance
	r.u32() // version
	total := r.u64()
	if !r.want(name == qemuRAM, "the section %q comes first", name) || !r.want(total&qemuRAMFlags == qemuRAMMemSize, "its memory begins with the flags %#x", total&qemuRAMFlags) {
		return nil, r.err
	}
	var blocks []ramBlock
	for left := total &^ qemuRAMFlags; left > 0 && r.err == nil; {
		b := r.block()
		if !r.want(uint64(b.pages.Length) <= left, "its blocks are larger than they should be") || !r.want(len(blocks) < maxRAMBlocks, "it has too many blocks") {
			break
		}
		left -= uint64(b.pages.Length)
		blocks = append(blocks, b)
	}
	return blocks, r.err
}

// configuration reads the configuration, and returns the capabilities in it.
func (r *migration) configuration() (capabilities []string) {
	kind := r.u8()
	n := r.u32()
	if !r.want(kind == qemuConfiguration && n < maxMachineName, "it has no configuration") {
		return nil
	}
	r.bytes(int(n)) // the machine's name
	for r.err == nil {
		before := r.at
		if r.u8() != qemuSubsection {
			r.at = before
			return capabilities
		}
		name := r.counted()
		r.u32() // version
		if !r.want(name == qemuCapabilities, "it has a configuration of %q, which is not known", name) {
			return nil
		}
		n := r.u32()
		if !r.want(n < maxCapabilities, "it has %d capabilities", n) {
			return nil
		}
		for range n {
			capabilities = append(capabilities, r.counted())
		}
	}
	return capabilities
}

// block reads a block, and goes on behind its pages.
func (r *migration) block() ramBlock {
	b := ramBlock{name: r.counted()}
	length := r.u64()
	version, pageSize, bitmap, pages := r.u32(), r.u64(), r.u64(), r.u64()
	size := uint64(r.file.Size())
	if !r.want(version == mappedRAMVersion && pageSize == chunker.PageSize, "the block %s has version %d, and pages of %d bytes", b.name, version, pageSize) ||
		!r.want(length > 0 && length%chunker.PageSize == 0 && length <= size && pages <= size-length && pages >= uint64(r.at), "the block %s does not lie in the file", b.name) ||
		!r.want(bitmap >= uint64(r.at) && bitmap <= pages && (length/chunker.PageSize+63)/64*8 <= pages-bitmap, "the bitmap of the block %s does not lie before its pages", b.name) {
		return b
	}
	b.pages, b.bitmap = DumpRange{Offset: int64(pages), Length: int64(length)}, int64(bitmap)
	r.at = int64(pages + length)
	return b
}
