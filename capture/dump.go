package capture

import (
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"sort"
	"strings"

	"github.com/arcboxlabs/arcstore/chunker"
	"github.com/arcboxlabs/arcstore/manifest"
)

// Streams of a snapshot of a dump, besides its memory.
const (
	// DumpRest is what the dump has besides memory, in the order of the file.
	DumpRest = "dump/rest"
	// DumpLayoutStream says where in the file all of it was; see DumpLayout.
	DumpLayoutStream = "dump/layout.json"

	// The kinds of dumps.
	KindELFCore   = "elf-core"
	KindMappedRAM = "mapped-ram"

	dumpLayoutVersion = 1
	// MaxDumpLayout bounds the encoding of a layout, in bytes.
	MaxDumpLayout = 16 << 20
	maxSegments   = 1 << 16
)

// DumpLayout says how the streams of a dump make up its file: memory lies where Memory says, and the rest, in its order, everywhere else.
type DumpLayout struct {
	Format int         `json:"format"`
	Kind   string      `json:"kind"` // KindELFCore or KindMappedRAM
	Size   int64       `json:"size"` // of the file, in bytes
	Memory []DumpRange `json:"memory"`
}

// DumpRange is a part of the file that is memory. Ranges are in the order of the file, and share no byte.
type DumpRange struct {
	Offset int64  `json:"offset"` // in the file
	Length int64  `json:"length"`
	At     int64  `json:"at"`             // in the memory; each begins a page there
	Name   string `json:"name,omitempty"` // of a block of memory that has one
}

// DecodeDumpLayout reads what Encode has written.
func DecodeDumpLayout(b []byte) (*DumpLayout, error) {
	l := new(DumpLayout)
	if err := json.Unmarshal(b, l); err != nil {
		return nil, fmt.Errorf("capture: layout of a dump: %w", err)
	}
	if l.Format > dumpLayoutVersion {
		return nil, fmt.Errorf("capture: layout of a dump: it has format %d, this program knows up to %d", l.Format, dumpLayoutVersion)
	}
	if err := l.check(); err != nil {
		return nil, fmt.Errorf("capture: layout of a dump: %w", err)
	}
	return l, nil
}

func (l *DumpLayout) check() error {
	at, end := int64(0), int64(0)
	for _, r := range l.Memory {
		if r.Offset < end || r.Length <= 0 || r.Length > l.Size-r.Offset || r.At != at {
			return fmt.Errorf("%w: %d bytes at byte %d of %d are no part of their own", ErrInvalid, r.Length, r.Offset, l.Size)
		}
		end = r.Offset + r.Length
		at += (r.Length + chunker.PageSize - 1) / chunker.PageSize * chunker.PageSize
	}
	return nil
}

// MemorySize is the size of the memory, in bytes: of the last range, all of its last page.
func (l *DumpLayout) MemorySize() int64 {
	if len(l.Memory) == 0 {
		return 0
	}
	last := l.Memory[len(l.Memory)-1]
	return last.At + last.Length
}

// Rest returns the parts of the file that are not memory, as ranges of the rest.
func (l *DumpLayout) Rest() (parts []DumpRange) {
	at, end := int64(0), int64(0)
	add := func(to int64) {
		if to > end {
			parts = append(parts, DumpRange{Offset: end, Length: to - end, At: at})
			at += to - end
		}
	}
	for _, r := range l.Memory {
		add(r.Offset)
		end = r.Offset + r.Length
	}
	add(l.Size)
	return parts
}

// Dump is a file of another tool's in which memory lies among other things.
type Dump struct {
	file *File
	vm   *VM
}

// OpenELFCore opens an ELF core, as QEMU's dump-guest-memory and gdb's gcore write them. It must be closed. Its segments are the memory.
func OpenELFCore(name string) (*Dump, error) { return openDump(name, (*Dump).openELFCore) }

func openDump(name string, open func(*Dump) error) (*Dump, error) {
	f, err := OpenFile(name)
	if err != nil {
		return nil, err
	}
	d := &Dump{file: f}
	if err := open(d); err != nil {
		f.Close()
		return nil, fmt.Errorf("capture: %s: %w", name, err)
	}
	return d, nil
}

// Close closes the file.
func (d *Dump) Close() error { return d.file.Close() }

// VM returns the dump as a VM, to be captured while the dump is open.
func (d *Dump) VM() *VM { return d.vm }

// What begins a dump that is compressed, as QEMU and makedumpfile write them.
var kdumpMagics = []string{"KDUMP   ", "makedumpfile"}

func (d *Dump) openELFCore() error {
	var magic [16]byte
	if _, err := d.file.ReadAt(magic[:], 0); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	for _, k := range kdumpMagics {
		if strings.HasPrefix(string(magic[:]), k) {
			return fmt.Errorf("%w: it is compressed as kdump has it: take it with dump-guest-memory without -z, -l, -s and -w, which makes an ELF core", ErrInvalid)
		}
	}
	core, err := elf.NewFile(d.file)
	if err != nil {
		return fmt.Errorf("%w: it is no ELF core: %w", ErrInvalid, err)
	}
	if core.Type != elf.ET_CORE {
		return fmt.Errorf("%w: it is an ELF file, and no core (%s)", ErrInvalid, core.Type)
	}
	segments, err := d.segments(core)
	if err != nil {
		return err
	}
	l := &DumpLayout{Format: dumpLayoutVersion, Kind: KindELFCore, Size: d.file.Size()}
	at := int64(0)
	for _, s := range segments {
		l.Memory = append(l.Memory, DumpRange{Offset: int64(s.Off), Length: int64(s.Filesz), At: at})
		at += (int64(s.Filesz) + chunker.PageSize - 1) / chunker.PageSize * chunker.PageSize
	}
	if err := l.check(); err != nil {
		return err
	}
	return d.describe(l, carved{d.file, l.Memory, l.MemorySize()}, describeDump(core, segments, l))
}

// describe makes the file a VM.
func (d *Dump) describe(l *DumpLayout, memory chunker.Source, machine *manifest.Machine) error {
	text, err := json.Marshal(l)
	if err != nil {
		return err
	}
	d.vm = &VM{Memory: memory, Machine: machine, State: map[string]chunker.Source{DumpLayoutStream: Bytes(text)}}
	rest := l.Rest()
	if n := len(rest); n > 0 {
		d.vm.State[DumpRest] = carved{d.file, rest, rest[n-1].At + rest[n-1].Length}
	}
	return nil
}

// segments returns those that have memory in the file, in its order.
func (d *Dump) segments(core *elf.File) (all []*elf.Prog, err error) {
	for _, p := range core.Progs {
		if p.Type != elf.PT_LOAD || p.Filesz == 0 {
			continue
		}
		if p.Off > math.MaxInt64 || p.Filesz > math.MaxInt64 || int64(p.Off) > d.file.Size()-int64(p.Filesz) {
			return nil, fmt.Errorf("%w: it is cut off: %d bytes at byte %d are not in it", ErrInvalid, p.Filesz, p.Off)
		}
		all = append(all, p)
	}
	switch {
	case len(all) == 0:
		return nil, fmt.Errorf("%w: it has no memory in it", ErrInvalid)
	case len(all) > maxSegments:
		return nil, fmt.Errorf("%w: it has %d segments, and %d are too many", ErrInvalid, len(all), maxSegments)
	}
	sort.SliceStable(all, func(i, j int) bool { return all[i].Off < all[j].Off })
	return all, nil
}

// describeDump returns the regions of a dump; nil where they cannot be described, as those of one by virtual addresses.
func describeDump(core *elf.File, segments []*elf.Prog, l *DumpLayout) *manifest.Machine {
	physical := false
	for _, s := range segments {
		physical = physical || s.Paddr != 0
	}
	m := &manifest.Machine{Architecture: map[elf.Machine]string{elf.EM_X86_64: "amd64", elf.EM_AARCH64: "arm64", elf.EM_RISCV: "riscv64"}[core.Machine]}
	if m.Architecture == "" {
		m.Architecture = strings.ToLower(strings.TrimPrefix(core.Machine.String(), "EM_"))
	}
	for i, s := range segments {
		r := manifest.Region{GuestAddress: s.Paddr, Size: int64(s.Filesz), Offset: l.Memory[i].At, ReadOnly: s.Flags != 0 && s.Flags&elf.PF_W == 0}
		if !physical && len(segments) > 1 {
			r.GuestAddress = s.Vaddr // of a process
		}
		m.Regions = append(m.Regions, r)
	}
	if m.Validate(l.MemorySize()) != nil {
		return nil
	}
	return m
}

// carved is parts of a file, one after the other; between them there is nothing.
type carved struct {
	file  *File
	parts []DumpRange
	size  int64
}

// Size implements chunker.Source.
func (c carved) Size() int64 { return c.size }

// part returns the index of the first part that ends after off.
func (c carved) part(off int64) int {
	return sort.Search(len(c.parts), func(i int) bool { return c.parts[i].At+c.parts[i].Length > off })
}

// ReadAt implements chunker.Source.
func (c carved) ReadAt(p []byte, off int64) (n int, err error) {
	for i := c.part(off); n < len(p); {
		at := off + int64(n)
		switch {
		case at >= c.size:
			return n, io.EOF
		case at < c.parts[i].At: // between two
			gap := p[n:min(int64(len(p)), int64(n)+c.parts[i].At-at)]
			clear(gap)
			n += len(gap)
			continue
		}
		part := c.parts[i]
		some := p[n:min(int64(len(p)), int64(n)+part.At+part.Length-at)]
		if err := chunker.ReadFull(c.file, some, part.Offset+at-part.At); err != nil {
			return n, err
		}
		n += len(some)
		i++
	}
	return n, nil
}

// NextData implements chunker.HoleFinder.
func (c carved) NextData(off int64) (start, end int64, err error) {
	for i := c.part(off); i < len(c.parts); i++ {
		part := c.parts[i]
		from := part.Offset + max(0, off-part.At)
		start, end, err := c.file.NextData(from)
		if err != nil {
			return 0, 0, err
		}
		if last := part.Offset + part.Length; start < last && start < end {
			return part.At + start - part.Offset, part.At + min(end, last) - part.Offset, nil
		}
	}
	return c.size, c.size, nil
}
