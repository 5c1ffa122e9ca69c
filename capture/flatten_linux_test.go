package capture

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/arcboxlabs/arcstore/capture/criu"
)

// testRun is a run of pages as a test writes it.
type testRun struct {
	addr, pages uint64
	inParent    bool
}

// writePagemap writes a pagemap's image as CRIU 4.2 does, or as those before it do.
func writePagemap(t *testing.T, name string, id uint32, runs []testRun, old bool) {
	t.Helper()
	number := func(b []byte, n protowire.Number, v uint64) []byte {
		return protowire.AppendVarint(protowire.AppendTag(b, n, protowire.VarintType), v)
	}
	b := binary.LittleEndian.AppendUint32(nil, 0x54564319)
	b = binary.LittleEndian.AppendUint32(b, 0x56084025)
	records := [][]byte{number(nil, 1, uint64(id))}
	for _, r := range runs {
		record := number(nil, 1, r.addr)
		switch {
		case old && r.inParent:
			record = number(number(record, 2, r.pages), 3, 1)
		case old:
			record = number(record, 2, r.pages)
		default:
			record = number(record, 2, 0)
			flags := uint64(4)
			if r.inParent {
				flags = 1
			}
			record = number(number(record, 4, flags), 5, r.pages)
		}
		records = append(records, record)
	}
	for _, record := range records {
		b = append(binary.LittleEndian.AppendUint32(b, uint32(len(record))), record...)
	}
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// makeChain makes incremental images of the full ones in dir: three
// directories in base, 0 the newest, each with a third of the pages. It
// returns how many pages there are. Of pages that a newer directory has, an
// older one has some other content, as it would have of pages that changed.
func makeChain(t *testing.T, dir, base string, old bool) (total int) {
	t.Helper()
	images := openDir(t, dir)
	const levels, page = 3, 4096
	for level := range levels {
		to := filepath.Join(base, fmt.Sprint(level))
		if err := os.MkdirAll(to, 0o700); err != nil {
			t.Fatal(err)
		}
		if level < levels-1 {
			if err := os.Symlink(fmt.Sprintf("../%d", level+1), filepath.Join(to, "parent")); err != nil {
				t.Fatal(err)
			}
		}
		if level == 0 {
			for name, src := range images {
				if err := os.WriteFile(filepath.Join(to, name), readSource(t, src), 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}
		for _, name := range images.Pagemaps() {
			m, err := criu.ReadPagemap(images, name)
			if err != nil {
				t.Fatal(err)
			}
			all := readSource(t, images[m.PagesName()])
			var runs []testRun
			var pages []byte
			i := 0
			for _, run := range m.Runs {
				for k := range run.Pages {
					at := (i / 5) % levels // five pages at a time in the same directory
					r := testRun{addr: run.Addr + k*page, pages: 1, inParent: at > level}
					content := all[i*page : (i+1)*page]
					i++
					if at < level {
						if i%2 == 0 {
							continue // not mapped then
						}
						content = bytes.Repeat([]byte{0xee}, page)
					}
					if !r.inParent {
						pages = append(pages, content...)
					}
					if n := len(runs); n > 0 && runs[n-1].addr+runs[n-1].pages*page == r.addr && runs[n-1].inParent == r.inParent {
						runs[n-1].pages++
					} else {
						runs = append(runs, r)
					}
				}
			}
			if level == 0 {
				total += i
			}
			writePagemap(t, filepath.Join(to, name), m.PagesID, runs, old)
			if err := os.WriteFile(filepath.Join(to, m.PagesName()), pages, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	return total
}

// addresses returns the address of each page of a pagemap, in order.
func addresses(m *criu.Pagemap) []uint64 {
	var all []uint64
	for _, r := range m.Runs {
		for k := range r.Pages {
			all = append(all, r.Addr+k*4096)
		}
	}
	return all
}

// TestFlattenRestores dumps a process tree, splits the images into a chain of
// three, sees that CRIU takes that for what it is, and that what OpenDir makes
// of it holds the same memory and restores alone.
func TestFlattenRestores(t *testing.T) {
	is41 := criuIs41(t)
	for _, old := range []bool{false, true} {
		t.Run(fmt.Sprintf("old=%v", old), func(t *testing.T) {
			v := startVictim(t)
			want := v.digest(t)
			full := v.dump(t)
			base := t.TempDir()
			if pages := makeChain(t, full, base, old); pages < 400 {
				t.Fatalf("only %d pages were dumped", pages)
			}
			original := openDir(t, full)
			if maps := original.Pagemaps(); len(maps) != 3 || !strings.HasPrefix(maps[2], "pagemap-shmem-") {
				t.Fatalf("want pagemaps of two processes and of the memory that they share, have %q", maps)
			}
			flat := writeImages(t, openDir(t, filepath.Join(base, "0")))
			sameMemory(t, openDir(t, flat), original)
			v.restore(t, flat, want)
			if old || !is41 { // 4.1 does not read the records of 4.2
				v.restore(t, filepath.Join(base, "0"), want)
			}
		})
	}
}

// openDir opens images until the end of the test.
func openDir(t *testing.T, dir string) criu.Images {
	t.Helper()
	images, closer, err := OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closer.Close() })
	return images
}

// writeImages writes images into a new directory.
func writeImages(t *testing.T, images criu.Images) string {
	t.Helper()
	dir := t.TempDir()
	for name, src := range images {
		if err := os.WriteFile(filepath.Join(dir, name), readSource(t, src), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// sameMemory sees that got, images that restore alone, are those of want.
func sameMemory(t *testing.T, got, want criu.Images) {
	t.Helper()
	for name, src := range want {
		switch {
		case got[name] == nil:
			t.Errorf("%s is missing", name)
		case !strings.HasPrefix(name, "pagemap-") && !bytes.Equal(readSource(t, got[name]), readSource(t, src)):
			t.Errorf("%s is not what it was", name)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d images are %d", len(want), len(got))
	}
	for _, name := range want.Pagemaps() {
		g, err := criu.ReadPagemap(got, name)
		if err != nil {
			t.Fatal(err)
		}
		w, err := criu.ReadPagemap(want, name)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(addresses(g), addresses(w)) || g.PagesID != w.PagesID {
			t.Errorf("%s has not the pages that it had", name)
		}
		for _, r := range g.Runs {
			if r.Flags != criu.PagePresent {
				t.Fatalf("%s: a run has the flags %d", name, r.Flags)
			}
		}
	}
}
