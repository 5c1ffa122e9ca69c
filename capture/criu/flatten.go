package criu

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"slices"
	"sort"
	"strings"

	"github.com/arcboxlabs/arcstore/chunker"
)

// MaxChain bounds how many images one set of incremental images builds on.
const MaxChain = 1000

// Flatten returns images that restore alone. Where the memory of images is
// partly in their parent's, it is gathered: the result has pagemaps of present
// pages, and pages images that read from those of images and of its ancestors,
// which must therefore stay open. All other images are the same.
//
// parent is called for each next ancestor, the nearest first, as long as pages
// are wanted, and returns nil after the last; it may be nil for images that
// have none. Pages that cannot be found are an ImageError that names their
// process and address.
func Flatten(images Images, parent func() (Images, error)) (Images, error) {
	f := flattening{images: images, users: map[uint32]int{}}
	for _, name := range images.Pagemaps() {
		if err := f.add(name); err != nil {
			return nil, err
		}
	}
	for _, m := range f.merges {
		if f.users[m.PagesID] > 1 {
			return nil, damaged(m.Name, "another pagemap has the same %s", m.PagesName())
		}
	}
	for level := 1; ; level++ {
		m, wanted := f.wanted()
		if m == nil {
			return f.result(), nil
		}
		if level > MaxChain {
			return nil, damaged(m.Name, "its pages are not found in %d parents", MaxChain)
		}
		var next Images
		if parent != nil {
			var err error
			if next, err = parent(); err != nil {
				return nil, err
			}
		}
		if next == nil {
			return nil, missing(m.Name, wanted.addr, "is in a parent's images, and there is no such parent")
		}
		for _, m := range f.merges {
			if err := f.find(m, next, level); err != nil {
				return nil, err
			}
		}
	}
}

// missing is the error for a page that is nowhere.
func missing(pagemap string, addr uint64, why string) error {
	id := strings.TrimSuffix(strings.TrimPrefix(pagemap, "pagemap-"), ".img")
	if shared, ok := strings.CutPrefix(id, "shmem-"); ok {
		return damaged(pagemap, "the page of shared memory %s at byte %#x %s", shared, addr, why)
	}
	return damaged(pagemap, "the page of process %s at address %#x %s", id, addr, why)
}

// flattening is a Flatten under way.
type flattening struct {
	images   Images
	users    map[uint32]int // how many pagemaps each pages image has
	pageSize int64          // in bytes; 0 while it is not known
	merges   []*merge
}

// A merge is a pagemap whose pages come from several images.
type merge struct {
	*Pagemap
	found  []part
	wanted []part // of the next ancestor
}

// A part is a range of a merge's pages.
type part struct {
	addr  uint64
	at    int64 // in the merged pages image, in pages
	pages int64
	level int // of the images that have them: 0 is the newest
	src   chunker.Source
	off   int64 // in src, in pages
}

// add takes a pagemap of the images to be flattened.
func (f *flattening) add(name string) error {
	p, err := ReadPagemap(f.images, name)
	if err != nil {
		return err
	}
	if run, ok := p.absent(); ok {
		return missing(name, run.Addr, "was left in the process by a lazy dump")
	}
	f.users[p.PagesID]++
	if err := f.measure(p, f.images); err != nil || !p.Incremental() {
		return err
	}
	if p.Compressed {
		return errCompressed(name)
	}
	src := f.images[p.PagesName()]
	if _, err := layOut(p, src, f.size()); err != nil {
		return err
	}
	m := &merge{Pagemap: p}
	at, off := int64(0), int64(0)
	for _, run := range p.Runs {
		r := part{addr: run.Addr, at: at, pages: int64(run.Pages), src: src, off: off}
		if at += r.pages; run.Flags&PagePresent != 0 {
			off += r.pages
			m.found = append(m.found, r)
		} else {
			m.wanted = append(m.wanted, r)
		}
	}
	f.merges = append(f.merges, m)
	return nil
}

func errCompressed(name string) error {
	return damaged(name, "its pages are compressed by CRIU: incremental images can be merged only without --compress")
}

// measure learns the size of the pages, which all images must agree on.
func (f *flattening) measure(p *Pagemap, images Images) error {
	size, err := p.PageSize(images)
	if err != nil || size == 0 {
		return err
	}
	if f.pageSize != 0 && f.pageSize != size {
		return damaged(p.PagesName(), "its pages have %d bytes, those of other images %d", size, f.pageSize)
	}
	f.pageSize = size
	return nil
}

// size returns the size of a page in bytes, a guess until one is seen.
func (f *flattening) size() uint64 { return uint64(cmp.Or(f.pageSize, minPageSize)) }

// wanted returns the first range of pages that is not found yet, and whose it is.
func (f *flattening) wanted() (*merge, part) {
	for _, m := range f.merges {
		if len(m.wanted) > 0 {
			return m, m.wanted[0]
		}
	}
	return nil, part{}
}

// find looks in an ancestor's images for the pages that m wants.
func (f *flattening) find(m *merge, ancestor Images, level int) error {
	if len(m.wanted) == 0 {
		return nil
	}
	if ancestor[m.Name] == nil {
		return missing(m.Name, m.wanted[0].addr, "is in a parent's images, but that has no such image")
	}
	p, err := ReadPagemap(ancestor, m.Name)
	if err != nil {
		return inParent(err)
	}
	if p.Compressed {
		return errCompressed(m.Name)
	}
	if err := f.measure(p, ancestor); err != nil {
		return inParent(err)
	}
	size := f.size()
	spans, err := layOut(p, ancestor[p.PagesName()], size)
	if err != nil {
		return inParent(err)
	}
	var wanted []part
	for _, want := range m.wanted {
		for want.pages > 0 {
			i := sort.Search(len(spans), func(i int) bool { return spans[i].end > want.addr })
			if i == len(spans) || spans[i].addr > want.addr {
				return missing(m.Name, want.addr, "is neither in these images nor in their parent's")
			}
			span := spans[i]
			if (want.addr-span.addr)%size != 0 {
				return damaged(m.Name, "the address %#x is not that of a page", want.addr)
			}
			got := want
			got.pages = min(want.pages, int64((span.end-want.addr)/size))
			switch {
			case span.flags&PagePresent != 0:
				got.level, got.src, got.off = level, span.src, span.off+int64((want.addr-span.addr)/size)
				m.found = append(m.found, got)
			case span.flags&PageInParent != 0:
				wanted = append(wanted, got)
			default:
				return missing(m.Name, want.addr, "was left in the process by a lazy dump")
			}
			want.addr += uint64(got.pages) * size
			want.at += got.pages
			want.pages -= got.pages
		}
	}
	m.wanted = wanted
	return nil
}

// inParent says of an error that it is about an ancestor's image.
func inParent(err error) error { return fmt.Errorf("in a parent's images: %w", err) }

// A span is a run of an ancestor's pagemap and where its pages are.
type span struct {
	part
	end   uint64 // the address after it
	flags PageFlags
}

// layOut returns the runs of a pagemap, sorted by address.
func layOut(p *Pagemap, src chunker.Source, size uint64) ([]span, error) {
	spans := make([]span, 0, len(p.Runs))
	off := int64(0)
	for _, run := range p.Runs {
		s := span{part: part{addr: run.Addr, pages: int64(run.Pages), src: src, off: off}, end: run.Addr + run.Pages*size, flags: run.Flags}
		if s.end < s.addr {
			return nil, damaged(p.Name, "the pages at %#x go beyond the end of addresses", s.addr)
		}
		if run.Flags&PagePresent != 0 {
			off += s.pages
		}
		spans = append(spans, s)
	}
	slices.SortFunc(spans, func(a, b span) int { return cmp.Compare(a.addr, b.addr) })
	for i := 1; i < len(spans); i++ {
		if spans[i].addr < spans[i-1].end {
			return nil, damaged(p.Name, "the page at %#x is in it twice", spans[i].addr)
		}
	}
	return spans, nil
}

// result returns the flat images, once every page is found.
func (f *flattening) result() Images {
	flat := maps.Clone(f.images)
	for _, m := range f.merges {
		slices.SortFunc(m.found, func(a, b part) int { return cmp.Compare(a.at, b.at) })
		pages := &sections{}
		for _, p := range m.found {
			pages.add(section{at: p.at * f.pageSize, len: p.pages * f.pageSize, level: p.level, src: p.src, off: p.off * f.pageSize})
		}
		for i := range m.Runs {
			m.Runs[i].Flags = m.Runs[i].Flags&^PageInParent | PagePresent
		}
		flat[m.Name] = bytes.NewReader(m.encode())
		flat[m.PagesName()] = pages
	}
	return flat
}
