package capture

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/arcboxlabs/arcstore/chunker"
	"github.com/arcboxlabs/arcstore/manifest"
)

// elfSegment is a segment of a core that a test makes.
type elfSegment struct {
	vaddr, paddr uint64
	data         []byte
}

// makeCore makes an ELF core: the headers, a note, and segments that begin anywhere in the file.
func makeCore(segments ...elfSegment) []byte {
	var b bytes.Buffer
	le := func(v any) { binary.Write(&b, binary.LittleEndian, v) }
	b.WriteString("\x7fELF\x02\x01\x01" + strings.Repeat("\x00", 9))
	le(uint16(4)) // ET_CORE
	le(uint16(62))
	le(uint32(1))
	le(uint64(0))
	le(uint64(64)) // program headers
	le(uint64(0))
	le(uint32(0))
	for _, v := range []uint16{64, 56, uint16(len(segments) + 1), 0, 0, 0} {
		le(v)
	}
	at := uint64(64 + 56*(len(segments)+1))
	header := func(kind, flags uint32, off, vaddr, paddr, size uint64) {
		le(kind)
		le(flags)
		for _, v := range []uint64{off, vaddr, paddr, size, size, 0} {
			le(v)
		}
	}
	note := []byte("a note of 24 bytes, yes.")
	header(4, 0, at, 0, 0, uint64(len(note)))
	at += uint64(len(note))
	for _, s := range segments {
		header(1, 6, at, s.vaddr, s.paddr, uint64(len(s.data)))
		at += uint64(len(s.data)) + 3
	}
	b.Write(note)
	for _, s := range segments {
		b.Write(s.data)
		b.WriteString("gap")
	}
	return b.Bytes()
}

func openCore(t testing.TB, core []byte) (*Dump, error) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "core")
	if err := os.WriteFile(name, core, 0o600); err != nil {
		t.Fatal(err)
	}
	return OpenELFCore(name)
}

func TestDump(t *testing.T) {
	low, high := bytes.Repeat([]byte("low "), 2500), bytes.Repeat([]byte("high"), 1024)
	core := makeCore(elfSegment{0, 0, low}, elfSegment{0, 1 << 32, high})
	d, err := openCore(t, core)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	vm := d.VM()
	memory := wholeOf(t, vm.Memory)
	// Each segment begins a page, and 10,000 bytes are three.
	if len(memory) != 3*4096+4096 || !bytes.Equal(memory[:len(low)], low) || !bytes.Equal(memory[3*4096:], high) || !chunker.IsZero(memory[len(low):3*4096]) {
		t.Errorf("%d bytes of memory", len(memory))
	}
	if want := []manifest.Region{{GuestAddress: 0, Size: 10_000, Offset: 0}, {GuestAddress: 1 << 32, Size: 4096, Offset: 3 * 4096}}; len(vm.Machine.Regions) != 2 ||
		vm.Machine.Regions[0] != want[0] || vm.Machine.Regions[1] != want[1] || vm.Machine.Architecture != "amd64" {
		t.Errorf("%+v", vm.Machine)
	}
	// The streams make up the file.
	l, err := DecodeDumpLayout(wholeOf(t, vm.State[DumpLayoutStream]))
	if err != nil {
		t.Fatal(err)
	}
	again := make([]byte, l.Size)
	rest := wholeOf(t, vm.State[DumpRest])
	for _, p := range l.Memory {
		copy(again[p.Offset:p.Offset+p.Length], memory[p.At:])
	}
	for _, p := range l.Rest() {
		copy(again[p.Offset:p.Offset+p.Length], rest[p.At:])
	}
	if !bytes.Equal(again, core) {
		t.Error("the file does not come back")
	}
	// One of a process has virtual addresses.
	d, err = openCore(t, makeCore(elfSegment{0x400000, 0, low}, elfSegment{0x7fff0000, 0, high}))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if r := d.VM().Machine.Regions; r[0].GuestAddress != 0x400000 || r[1].GuestAddress != 0x7fff0000 {
		t.Errorf("%+v", r)
	}
}

func TestBadDumps(t *testing.T) {
	good := makeCore(elfSegment{0, 4096, make([]byte, 8192)})
	program := bytes.Clone(good)
	program[16] = 2
	for name, core := range map[string][]byte{
		"no ELF core":    []byte("just some text"),
		"no core":        program,
		"cut off":        good[:len(good)-5000],
		"no memory":      makeCore(),
		"kdump":          append([]byte("KDUMP   "), make([]byte, 100)...),
		"kdump has it: ": append([]byte("makedumpfile\x00\x00\x00\x00"), make([]byte, 100)...),
	} {
		_, err := openCore(t, core)
		if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzDump(f *testing.F) {
	f.Add(makeCore(elfSegment{0, 0, []byte("low memory")}, elfSegment{0, 1 << 32, []byte("high memory")}))
	f.Fuzz(func(t *testing.T, core []byte) {
		d, err := openCore(t, core)
		if err != nil {
			return
		}
		defer d.Close()
		if n := d.VM().Memory.Size(); n < 1<<24 {
			wholeOf(t, d.VM().Memory)
		}
		for _, s := range d.VM().State {
			wholeOf(t, s)
		}
		if at, end, err := d.VM().Memory.(chunker.HoleFinder).NextData(0); err != nil || at > end {
			t.Errorf("%d, %d, %v", at, end, err)
		}
	})
}

func FuzzDumpLayout(f *testing.F) {
	f.Add([]byte(`{"format":1,"kind":"elf-core","size":20000,"memory":[{"offset":100,"length":5000,"at":0},{"offset":6000,"length":1,"at":8192}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := DecodeDumpLayout(b)
		if err != nil {
			return
		}
		covered := int64(0)
		for _, p := range append(l.Rest(), l.Memory...) {
			if p.Offset < 0 || p.Length <= 0 || p.Offset+p.Length > l.Size {
				t.Errorf("%+v of %d", p, l.Size)
			}
			covered += p.Length
		}
		if l.Size >= 0 && covered != l.Size {
			t.Errorf("%d bytes of %d", covered, l.Size)
		}
	})
}

func TestCloudHypervisor(t *testing.T) {
	dir := t.TempDir()
	memory := bytes.Repeat([]byte("memory  "), 4096)
	// The manager's state is JSON in a string.
	state := `{"snapshots":{"memory-manager":{"snapshot_data":{"state":"{\"memory_ranges\":{\"data\":[{\"gpa\":0,\"length\":24576},{\"gpa\":4294967296,\"length\":8192}]}}"}}}}`
	for name, text := range map[string]string{"memory-ranges": string(memory), "config.json": `{"cpus":{}}`, "state.json": state} {
		if _, err := OpenCloudHypervisor(dir); !errors.Is(err, ErrInvalid) {
			t.Errorf("without %s: %v", name, err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c, err := OpenCloudHypervisor(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if r := c.VM().Machine.Regions; len(r) != 2 || r[1] != (manifest.Region{GuestAddress: 1 << 32, Size: 8192, Offset: 24576}) {
		t.Errorf("%+v", r)
	}
	if !bytes.Equal(wholeOf(t, c.VM().Memory), memory) || string(wholeOf(t, c.VM().State["cloud-hypervisor/state.json"])) != state {
		t.Error("the files are not the streams")
	}
	for _, other := range []string{`{}`, strings.ReplaceAll(state, "8192", "4096"), strings.ReplaceAll(state, "8192", "-1"), strings.Repeat("[", 100) + strings.Repeat("]", 100)} {
		if m := describeCloud([]byte(other), int64(len(memory))); m != nil {
			t.Errorf("%s: %+v", other, m)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "state.json"), []byte(state[:50]), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenCloudHypervisor(dir); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "damaged") {
		t.Error(err)
	}
}
