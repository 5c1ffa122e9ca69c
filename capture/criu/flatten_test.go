package criu

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
)

const page = minPageSize

// pageOf returns a page that tells where it is from.
func pageOf(addr uint64, level int) []byte {
	return bytes.Repeat(fmt.Appendf(nil, "%08x%08x", addr, level), page/16)
}

// mapped returns images of one pagemap, whose present pages say which they are.
func mapped(name string, level int, runs ...PageRun) Images {
	m := &Pagemap{Name: name, PagesID: uint32(level + 1), Runs: runs}
	var pages []byte
	for _, r := range runs {
		for k := range r.Pages {
			if r.Flags&PagePresent != 0 {
				pages = append(pages, pageOf(r.Addr+k*page, level)...)
			}
		}
	}
	return Images{name: bytes.NewReader(m.encode()), m.PagesName(): bytes.NewReader(pages)}
}

// chain hands out images one after the other, as Flatten asks for them.
func chain(all ...Images) func() (Images, error) {
	return func() (Images, error) {
		if len(all) == 0 {
			return nil, nil
		}
		next := all[0]
		all = all[1:]
		return next, nil
	}
}

func TestFlatten(t *testing.T) {
	const name = "pagemap-7.img"
	const in, here = PageInParent, PagePresent
	newest := mapped(name, 0,
		PageRun{0x1000, 1, here}, PageRun{0x2000, 4, in}, PageRun{0x8000, 1, here | PageLazy}, PageRun{0x9000, 2, in}, PageRun{0x20000, 1, in | PageLazy})
	newest["core-7.img"] = bytes.NewReader([]byte("core"))
	parent := mapped(name, 1, PageRun{0x1000, 2, here}, PageRun{0x3000, 1, in}, PageRun{0x4000, 9, here}, PageRun{0x20000, 1, in})
	// In no order, as nothing promises one.
	oldest := mapped(name, 2, PageRun{0x20000, 1, here}, PageRun{0x1000, 3, here})
	flat, err := Flatten(newest, chain(parent, oldest))
	if err != nil {
		t.Fatal(err)
	}
	if flat["core-7.img"] != newest["core-7.img"] || len(flat) != len(newest) {
		t.Error("other images are not as they were")
	}
	m, err := ReadPagemap(flat, name)
	if err != nil {
		t.Fatal(err)
	}
	want := []PageRun{{0x1000, 1, here}, {0x2000, 4, here}, {0x8000, 1, here | PageLazy}, {0x9000, 2, here}, {0x20000, 1, here | PageLazy}}
	if !slices.Equal(m.Runs, want) || m.PagesID != 1 {
		t.Errorf("runs %v in %s", m.Runs, m.PagesName())
	}
	var pages []byte
	for _, p := range []struct {
		addr  uint64
		level int
	}{{0x1000, 0}, {0x2000, 1}, {0x3000, 2}, {0x4000, 1}, {0x5000, 1}, {0x8000, 0}, {0x9000, 1}, {0xa000, 1}, {0x20000, 2}} {
		pages = append(pages, pageOf(p.addr, p.level)...)
	}
	src := flat["pages-1.img"]
	if src.Size() != int64(len(pages)) {
		t.Fatalf("%d bytes of pages, want %d", src.Size(), len(pages))
	}
	for off := 0; off <= len(pages); off += 1000 {
		for _, size := range []int{0, 1, 4096, 9000} {
			got := make([]byte, size)
			n, err := src.ReadAt(got, int64(off))
			rest := pages[off:min(off+size, len(pages))]
			if !bytes.Equal(got[:n], rest) || (err == io.EOF) != (len(rest) < size) || err != nil && err != io.EOF {
				t.Fatalf("%d bytes at %d: %d, %v", size, off, n, err)
			}
		}
	}
	// What is flat stays as it is, and needs no parent.
	again, err := Flatten(flat, nil)
	if err != nil || again[name] != flat[name] {
		t.Errorf("a second time: %v", err)
	}
}

func TestFlattenRefuses(t *testing.T) {
	const name = "pagemap-7.img"
	const in, here = PageInParent, PagePresent
	newest := func() Images { return mapped(name, 0, PageRun{0x1000, 1, here}, PageRun{0x2000, 2, in}) }
	cut := mapped(name, 1, PageRun{0x2000, 3, here})
	cut["pages-2.img"] = bytes.NewReader(make([]byte, page))
	lost := mapped(name, 1, PageRun{0x2000, 3, here})
	delete(lost, "pages-2.img")
	twice := newest()
	twice["pagemap-8.img"] = twice[name]
	compressed := newest()
	compressed[name] = image([]uint32{commonMagic, uint32(TypePagemap)}, appendNumber(nil, 1, 1),
		appendNumber(appendNumber(appendNumber(nil, 1, 0x1000), 2, 1), 6, 100), appendNumber(appendNumber(appendNumber(nil, 1, 0x2000), 2, 1), 3, 1))
	own := func(images Images) func() (Images, error) { return func() (Images, error) { return images, nil } }
	for _, test := range []struct {
		why    string
		images Images
		parent func() (Images, error)
		want   string
	}{
		{"no parent", newest(), nil, "process 7 at address 0x2000"},
		{"the end of the chain", newest(), chain(mapped(name, 1, PageRun{0x2000, 1, here}, PageRun{0x3000, 1, in})), "process 7 at address 0x3000"},
		{"a parent without the process", newest(), chain(mapped("pagemap-8.img", 1, PageRun{0x2000, 2, here})), "process 7 at address 0x2000"},
		{"a page that is nowhere", newest(), chain(mapped(name, 1, PageRun{0x2000, 1, here})), "process 7 at address 0x3000"},
		{"a page between two", newest(), chain(mapped(name, 1, PageRun{0x1000, 1, here}, PageRun{0x3000, 1, here})), "process 7 at address 0x2000"},
		{"shared memory", mapped("pagemap-shmem-9.img", 0, PageRun{0, 1, in}), nil, "shared memory 9 at byte 0x0"},
		{"a parent that says so of itself", newest(), own(mapped(name, 1, PageRun{0x2000, 2, in})), "not found in 1000 parents"},
		{"a lazy dump", mapped(name, 0, PageRun{0x5000, 1, PageLazy}), nil, "process 7 at address 0x5000 was left"},
		{"a lazy parent", newest(), chain(mapped(name, 1, PageRun{0x2000, 2, PageLazy})), "process 7 at address 0x2000 was left"},
		{"a parent's pages cut off", newest(), chain(cut), "pages-2.img: its 4096 bytes are not the 3 pages"},
		{"a parent's pages lost", newest(), chain(lost), "pages-2.img: it is missing"},
		{"a page twice in the parent", newest(), chain(mapped(name, 1, PageRun{0x2000, 2, here}, PageRun{0x3000, 1, here})), "0x3000 is in it twice"},
		{"a page twice", mapped(name, 0, PageRun{0x1000, 1, here}, PageRun{0x2000, 2, in}, PageRun{0x2000, 2, in}), nil, "0x2000 is in it twice"},
		{"beyond all addresses", mapped(name, 0, PageRun{0x1000, 1, here}, PageRun{1<<64 - page, 2, in}), nil, "beyond the end"},
		{"a page that begins within one", newest(), chain(mapped(name, 1, PageRun{0x1800, 4, here})), "not that of a page"},
		{"two with the same pages", twice, nil, "has the same pages-1.img"},
		{"compressed pages", compressed, nil, "compressed"},
		{"a parent that cannot be opened", newest(), func() (Images, error) { return nil, &ImageError{Name: "x", Why: "closed"} }, "closed"},
	} {
		_, err := Flatten(test.images, test.parent)
		var image *ImageError
		if !errors.As(err, &image) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", test.why, err, test.want)
		}
	}
}

func TestPagemapOfOldAndNew(t *testing.T) {
	number := appendNumber
	for _, test := range []struct {
		why        string
		record     []byte
		want       PageRun
		compressed bool
		bad        bool
	}{
		{why: "before flags", record: number(number(nil, 1, 0x1000), 2, 3), want: PageRun{0x1000, 3, PagePresent}},
		{why: "before flags, in the parent", record: number(number(number(nil, 1, 0x1000), 2, 3), 3, 1), want: PageRun{0x1000, 3, PageInParent}},
		{why: "4.1", record: number(number(number(nil, 1, 0x1000), 2, 3), 4, 4), want: PageRun{0x1000, 3, PagePresent}},
		{why: "4.2", record: number(number(number(number(nil, 1, 0x1000), 2, 0), 4, 6), 5, 1<<33), want: PageRun{0x1000, 1 << 33, PagePresent | PageLazy}},
		{why: "both counts", record: number(number(number(number(nil, 1, 0x1000), 2, 9), 4, 4), 5, 3), want: PageRun{0x1000, 3, PagePresent}},
		{why: "a list of sizes", record: number(number(number(number(nil, 1, 0x1000), 2, 2), 6, 100), 6, 0), want: PageRun{0x1000, 2, PagePresent}, compressed: true},
		{why: "a packed list", record: protowire.AppendBytes(protowire.AppendTag(number(number(nil, 1, 0x1000), 2, 2), 6, protowire.BytesType), []byte{1, 2}), want: PageRun{0x1000, 2, PagePresent}, compressed: true},
		{why: "no pages", record: number(nil, 1, 0x1000), bad: true},
		{why: "no address", record: number(nil, 2, 1), bad: true},
		{why: "in two places", record: number(number(number(nil, 1, 0x1000), 2, 3), 4, 5), bad: true},
		{why: "too many", record: number(number(nil, 1, 0x1000), 5, 1<<63), bad: true},
		{why: "not a number", record: protowire.AppendBytes(protowire.AppendTag(number(nil, 2, 2), 1, protowire.BytesType), []byte{1, 2}), bad: true},
	} {
		images := Images{"pagemap-1.img": image([]uint32{commonMagic, uint32(TypePagemap)}, number(nil, 1, 5), test.record)}
		m, err := ReadPagemap(images, "pagemap-1.img")
		if test.bad {
			var image *ImageError
			if !errors.As(err, &image) {
				t.Errorf("%s: %v", test.why, err)
			}
			continue
		}
		if err != nil || !slices.Equal(m.Runs, []PageRun{test.want}) || m.Compressed != test.compressed || m.PagesName() != "pages-5.img" {
			t.Errorf("%s: %+v, %v", test.why, m, err)
		}
	}
	for _, head := range [][]byte{nil, {}, appendNumber(nil, 2, 1)} {
		src := image([]uint32{commonMagic, uint32(TypePagemap)})
		if head != nil {
			src = image([]uint32{commonMagic, uint32(TypePagemap)}, head)
		}
		if _, err := ReadPagemap(Images{"pagemap-1.img": src}, "pagemap-1.img"); err == nil {
			t.Errorf("the head %x is not an error", head)
		}
	}
}

func TestPageSize(t *testing.T) {
	m := &Pagemap{Name: "pagemap-1.img", PagesID: 1, Runs: []PageRun{{0x10000, 3, PagePresent}, {0x80000, 9, PageInParent}}}
	for size, want := range map[int64]int64{3 * 4096: 4096, 3 * 16384: 16384, 3 * 65536: 65536, 0: -1, 3*4096 - 1: -1, 4 * 4096: -1} {
		got, err := m.PageSize(Images{"pages-1.img": sparse{nil, size}})
		if err != nil {
			got = -1
		}
		if got != want {
			t.Errorf("%d bytes: pages of %d, %v", size, got, err)
		}
	}
	m.Runs = nil
	if got, err := m.PageSize(Images{}); got != 0 || err != nil {
		t.Errorf("no pages: %d, %v", got, err)
	}
}

// FuzzFlatten: whatever a pair of pagemaps says, the result is an error, or
// images whose pages can all be read.
func FuzzFlatten(f *testing.F) {
	const name = "pagemap-7.img"
	const in, here = PageInParent, PagePresent
	newest := mapped(name, 0, PageRun{0x1000, 1, here}, PageRun{0x2000, 2, in})
	parent := mapped(name, 1, PageRun{0x2000, 1, here}, PageRun{0x3000, 1, in | PageLazy}, PageRun{0x4000, 2, here})
	seed := func(images Images) []byte {
		b, err := io.ReadAll(io.NewSectionReader(images[name], 0, images[name].Size()))
		if err != nil {
			f.Fatal(err)
		}
		return b
	}
	f.Add(seed(newest), seed(parent), uint8(1), uint8(3))
	f.Add(seed(newest), seed(newest), uint8(1), uint8(1))
	f.Fuzz(func(t *testing.T, a, b []byte, n, m uint8) {
		images := func(pagemap []byte, pages uint8) Images {
			src := bytes.NewReader(make([]byte, int(pages)*page))
			return Images{name: bytes.NewReader(pagemap), "pages-1.img": src, "pages-2.img": src}
		}
		flat, err := Flatten(images(a, n), chain(images(b, m), images(b, m)))
		if err != nil {
			return
		}
		got, err := ReadPagemap(flat, name)
		if err != nil {
			t.Fatal(err)
		}
		if got.Compressed {
			return
		}
		if got.Incremental() {
			t.Fatal("it is still incremental")
		}
		if _, err := got.PageSize(flat); err != nil {
			t.Fatal(err)
		}
		for name, src := range flat {
			if _, err := io.Copy(io.Discard, io.NewSectionReader(src, 0, src.Size())); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
	})
}

// FuzzPagemap: what is read and written again is the same.
func FuzzPagemap(f *testing.F) {
	const name = "pagemap-7.img"
	for _, m := range []*Pagemap{
		{PagesID: 1, Runs: []PageRun{{0x1000, 1, PagePresent}, {0x2000, 1 << 40, PageInParent}}},
		{PagesID: 9},
	} {
		f.Add(m.encode())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := ReadPagemap(Images{name: bytes.NewReader(b)}, name)
		if err != nil {
			return
		}
		again, err := ReadPagemap(Images{name: bytes.NewReader(m.encode())}, name)
		if err != nil || !slices.Equal(again.Runs, m.Runs) || again.PagesID != m.PagesID {
			t.Errorf("%+v became %+v, %v", m, again, err)
		}
	})
}
