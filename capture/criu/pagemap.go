package criu

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"google.golang.org/protobuf/encoding/protowire"
)

// PageFlags say where the pages of a run are.
type PageFlags uint32

const (
	// PageInParent: in the images that these are an increment to.
	PageInParent PageFlags = 1 << 0
	// PageLazy: a restore may leave them to page faults.
	PageLazy PageFlags = 1 << 1
	// PagePresent: in the pages image.
	PagePresent PageFlags = 1 << 2
)

// A PageRun is a range of pages.
type PageRun struct {
	Addr  uint64 // virtual, of a process; from its start, of shared memory
	Pages uint64 // at least 1
	Flags PageFlags
}

// A Pagemap is where the memory of a process, or a piece of shared memory,
// lies: the pages image has the pages of its present runs, one after the other.
type Pagemap struct {
	Name    string // of its image
	PagesID uint32 // pages-N.img
	Runs    []PageRun
	// Compressed is set where the records have fields that are unknown here:
	// so CRIU notes the sizes of pages that it compressed, and the pages
	// image is not what it is said to be above.
	Compressed bool
}

// PagesName returns the name of the image that has the pages.
func (p *Pagemap) PagesName() string { return fmt.Sprintf("pages-%d.img", p.PagesID) }

// Present returns how many pages the pages image has.
func (p *Pagemap) Present() uint64 { return p.count(PagePresent) }

// count returns how many pages lie in runs with any of the flags.
func (p *Pagemap) count(flags PageFlags) uint64 {
	n := uint64(0)
	for _, r := range p.Runs {
		if r.Flags&flags != 0 {
			n += r.Pages
		}
	}
	return n
}

// Incremental reports whether some pages are in the parent's images alone.
func (p *Pagemap) Incremental() bool { return p.count(PageInParent) > 0 }

// absent returns the first run whose pages are in no image: those that a lazy
// dump left in the process.
func (p *Pagemap) absent() (PageRun, bool) {
	for _, r := range p.Runs {
		if r.Flags&(PageInParent|PagePresent) == 0 {
			return r, true
		}
	}
	return PageRun{}, false
}

// The sizes that Linux gives pages, in bytes: 4, 16 and 64 KiB. Images do not
// tell which one theirs have.
const (
	minPageSize = 4 << 10
	maxPageSize = 64 << 10
)

// PageSize returns the size of the pages in bytes, as the size of the pages
// image shows it: 0 where that has none, or is compressed. An image of
// another size than its pages is an error.
func (p *Pagemap) PageSize(images Images) (int64, error) {
	pages, name := int64(p.Present()), p.PagesName()
	src := images[name]
	switch {
	case p.Compressed || pages == 0 && src == nil:
		return 0, nil
	case src == nil:
		return 0, damaged(name, "it is missing, but %s refers to it", p.Name)
	case pages == 0 && src.Size() == 0:
		return 0, nil
	}
	for size := int64(minPageSize); size <= maxPageSize; size *= 4 {
		if src.Size() == pages*size {
			return size, nil
		}
	}
	return 0, damaged(name, "its %d bytes are not the %d pages of %s", src.Size(), pages, p.Name)
}

// maxPages bounds the pages of a pagemap, so that their bytes can be counted.
const maxPages = math.MaxInt64 / maxPageSize

// ReadPagemap reads a pagemap's image. It takes memory in proportion to the
// image's size, however many pages that speaks of.
func ReadPagemap(images Images, name string) (*Pagemap, error) {
	p := &Pagemap{Name: name}
	head, pages := false, uint64(0)
	err := images.Each(name, TypePagemap, func(record []byte) error {
		if !head {
			head = true
			return p.head(record)
		}
		run, err := p.run(record)
		if err != nil {
			return err
		}
		if pages += run.Pages; run.Pages > maxPages || pages > maxPages {
			return errors.New("it speaks of more pages than there can be")
		}
		p.Runs = append(p.Runs, run)
		return nil
	})
	if err != nil {
		return nil, err
	}
	if !head {
		return nil, damaged(name, "it has no records")
	}
	return p, nil
}

var errNoNumber = errors.New("a field that should be a number is none")

func (p *Pagemap) head(record []byte) error {
	found := false
	err := Fields(record, func(f Field) error {
		switch {
		case f.Number != 1:
			p.Compressed = true
		case f.Kind != protowire.VarintType:
			return errNoNumber
		default:
			p.PagesID, found = uint32(f.Value), true
		}
		return nil
	})
	if err == nil && !found {
		err = errors.New("it does not say where the pages are")
	}
	return err
}

func (p *Pagemap) run(record []byte) (PageRun, error) {
	var (
		run                     PageRun
		old                     uint64
		addressed, flagged, sub bool
	)
	err := Fields(record, func(f Field) error {
		if f.Number <= 5 && f.Kind != protowire.VarintType {
			return errNoNumber
		}
		switch f.Number {
		case 1:
			run.Addr, addressed = f.Value, true
		case 2: // up to 4.1, of 32 bits; 4.2 writes 0
			old = uint64(uint32(f.Value))
		case 3:
			sub = f.Value != 0
		case 4:
			run.Flags, flagged = PageFlags(f.Value), true
		case 5:
			run.Pages = f.Value
		default:
			p.Compressed = true
		}
		return nil
	})
	if run.Pages == 0 {
		run.Pages = old
	}
	if sub {
		run.Flags |= PageInParent
	} else if !flagged { // before there were flags
		run.Flags = PagePresent
	}
	switch {
	case err != nil:
		return run, err
	case !addressed || run.Pages == 0:
		return run, errors.New("it has no address, or no pages")
	case run.Flags&(PageInParent|PagePresent) == PageInParent|PagePresent:
		return run, errors.New("its pages are both in the parent and present")
	}
	return run, nil
}

// encode returns the image of the pagemap. Its counts of pages are written
// both as CRIU up to 4.1 reads them and as later ones do.
func (p *Pagemap) encode() []byte {
	b := binary.LittleEndian.AppendUint32(nil, commonMagic)
	b = binary.LittleEndian.AppendUint32(b, uint32(TypePagemap))
	record := appendNumber(nil, 1, uint64(p.PagesID))
	b = appendRecord(b, record)
	for _, run := range p.Runs {
		old := run.Pages
		if old > math.MaxUint32 {
			old = 0
		}
		record = appendNumber(record[:0], 1, run.Addr)
		record = appendNumber(record, 2, old)
		record = appendNumber(record, 4, uint64(run.Flags))
		record = appendNumber(record, 5, run.Pages)
		b = appendRecord(b, record)
	}
	return b
}

func appendNumber(b []byte, number protowire.Number, value uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, number, protowire.VarintType), value)
}

func appendRecord(b, record []byte) []byte {
	return append(binary.LittleEndian.AppendUint32(b, uint32(len(record))), record...)
}
