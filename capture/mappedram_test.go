package capture

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/arcboxlabs/arcstore/chunker"
)

// makeMappedRAM makes a file of two blocks, of 200 pages and of one, of which the even pages are there.
func makeMappedRAM() []byte {
	var b bytes.Buffer
	be := func(v any) { binary.Write(&b, binary.BigEndian, v) }
	text := func(s string) { b.WriteByte(byte(len(s))); b.WriteString(s) }
	be(uint32(qemuMagic))
	be(uint32(qemuVersion))
	be(uint8(qemuConfiguration))
	be(uint32(2))
	b.WriteString("pc")
	be(uint8(qemuSubsection))
	text(qemuCapabilities)
	be(uint32(1))
	be(uint32(1))
	text(qemuMappedRAM)
	be(uint8(qemuSectionStart))
	be(uint32(1))
	text(qemuRAM)
	be(uint32(0))
	be(uint32(4))
	be(uint64(201*4096 | qemuRAMMemSize))
	for i, pages := range []int{200, 1} {
		text([]string{"pc.ram", "rom"}[i])
		be(uint64(pages * 4096))
		be(uint32(mappedRAMVersion))
		be(uint64(4096))
		bitmap := (pages + 63) / 64 * 8
		begin := (b.Len() + 16 + bitmap + 4095) / 4096 * 4096
		be(uint64(b.Len() + 16))
		be(uint64(begin))
		b.Write(bytes.Repeat([]byte{0x55}, bitmap))
		b.Write(make([]byte, begin-b.Len()))
		for page := range pages {
			b.Write(bytes.Repeat([]byte{byte(page + 1)}, 4096)) // odd ones are from an earlier round
		}
	}
	b.WriteString("devices")
	return b.Bytes()
}

func openMapped(t testing.TB, text []byte) (*Dump, error) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "mapped")
	if err := os.WriteFile(name, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return OpenMappedRAM(name)
}

func TestMappedRAM(t *testing.T) {
	text := makeMappedRAM()
	d, err := openMapped(t, text)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	memory := wholeOf(t, d.VM().Memory)
	if len(memory) != 201*4096 {
		t.Fatalf("%d bytes of memory", len(memory))
	}
	src := d.VM().Memory.(chunker.HoleFinder)
	for page := range 201 {
		want := byte(page + 1)
		if page%2 == 1 && page < 200 {
			want = 0
		}
		if page == 200 {
			want = 1
		}
		if memory[page*4096] != want || memory[page*4096+4095] != want {
			t.Errorf("page %d is %d, want %d", page, memory[page*4096], want)
		}
		off := int64(page) * 4096
		start, end, err := src.NextData(off)
		wantStart := off
		if want == 0 {
			wantStart = off + 4096
		}
		if page < 199 && (start != wantStart || end != wantStart+4096 || err != nil) {
			t.Errorf("from page %d, data is from %d to %d, %v", page, start, end, err)
		}
	}
	// A part of a page that is not there.
	b := make([]byte, 5000)
	if _, err := src.ReadAt(b, 4096-100); err != nil || b[0] != 1 || b[99] != 1 || b[100] != 0 || b[4195] != 0 || b[4196] != 3 {
		t.Errorf("%v", err)
	}
	for i := range 100 {
		bad := bytes.Clone(text)
		bad[i] ^= 0xff
		if d, err := openMapped(t, bad); err == nil {
			d.Close() // such as a letter of a name
		} else if !errors.Is(err, ErrInvalid) {
			t.Errorf("byte %d: %v", i, err)
		}
	}
}

func FuzzMappedRAM(f *testing.F) {
	f.Add(makeMappedRAM())
	f.Fuzz(func(t *testing.T, text []byte) {
		d, err := openMapped(t, text)
		if err != nil {
			return
		}
		defer d.Close()
		if d.VM().Memory.Size() < 1<<24 {
			wholeOf(t, d.VM().Memory)
		}
		src := d.VM().Memory.(chunker.HoleFinder)
		for at := int64(0); at < src.Size(); {
			start, end, err := src.NextData(at)
			if err != nil || start < at || end < start || start == end && start != src.Size() {
				t.Fatalf("from %d: %d to %d, %v", at, start, end, err)
			}
			at = max(end, start+1)
		}
	})
}
