package capture

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/arcboxlabs/arcstore/chunker"
	"github.com/arcboxlabs/arcstore/manifest"
)

const chunkSize = 4096

// put is a Sink that remembers.
type put map[chunker.ID]int

func (p put) Put(id chunker.ID, data []byte) error {
	if chunker.Sum(data) != id {
		return errors.New("chunk and ID do not fit")
	}
	p[id]++
	return nil
}

// take captures a VM and returns its page tables.
func take(t *testing.T, files *manifest.Files, vm *VM, opts Options) (*manifest.Table, put, error) {
	t.Helper()
	ctx := context.Background()
	b, err := files.Build(ctx, chunkSize, opts.Parent)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Abort()
	opts.ChunkSize = chunkSize
	sink := put{}
	if _, err := CaptureVM(ctx, vm, sink, b, opts); err != nil {
		return nil, sink, err
	}
	d, err := b.Commit(ctx)
	if err != nil {
		t.Fatal(err)
	}
	table, err := files.Open(ctx, d)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { table.Close() })
	return table, sink, nil
}

// checkTable compares a stream's page table with its bytes.
func checkTable(t *testing.T, table *manifest.Table, name string, data []byte) {
	t.Helper()
	s, err := table.Stream(name)
	if err != nil {
		t.Fatal(err)
	}
	if s.Size() != int64(len(data)) {
		t.Fatalf("%s has %d bytes, want %d", name, s.Size(), len(data))
	}
	for i := range s.Len() {
		part := data[i*chunkSize : min((i+1)*chunkSize, int64(len(data)))]
		var want chunker.ID
		if !chunker.IsZero(part) {
			want = chunker.Sum(part)
		}
		var got [1]chunker.ID
		if err := s.Lookup(i, got[:]); err != nil || got[0] != want {
			t.Fatalf("%s, chunk %d: %s, want %s (%v)", name, i, got[0], want, err)
		}
	}
}

func TestParents(t *testing.T) {
	files := manifest.OpenFiles(t.TempDir(), nil)
	data := make([]byte, 300*4096)
	for i := range 40 {
		data[i*5000] = byte(i + 1)
	}
	first, sink, err := take(t, files, &VM{Memory: Bytes(data)}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	checkTable(t, first, "memory", data)
	all := len(sink)

	// Changed, zeroed, grown, shrunk: whatever the parent was like.
	changes := map[string]func([]byte) []byte{
		"same":          func(b []byte) []byte { return b },
		"changed":       func(b []byte) []byte { b[5] = 9; return b },
		"zeroed":        func(b []byte) []byte { clear(b[:100_000]); return b },
		"grown":         func(b []byte) []byte { return append(b, bytes.Repeat([]byte{1}, 20*4096)...) },
		"grown by zero": func(b []byte) []byte { return append(b, make([]byte, 20*4096)...) },
		"grown a bit":   func(b []byte) []byte { return append(b, 1, 2, 3) },
		"shrunk":        func(b []byte) []byte { return b[:50*4096] },
		"shrunk a bit":  func(b []byte) []byte { return b[:len(b)-1] },
		"short":         func(b []byte) []byte { return b[:4999] },
		"empty":         func(b []byte) []byte { return nil },
	}
	for name, change := range changes {
		t.Run(name, func(t *testing.T) {
			now := change(bytes.Clone(data))
			table, sink, err := take(t, files, &VM{Memory: Bytes(now)}, Options{Parent: first})
			if err != nil {
				t.Fatal(err)
			}
			checkTable(t, table, "memory", now)
			if name == "same" && len(sink) != 0 || len(sink) > all {
				t.Errorf("%d chunks were put, of %d", len(sink), all)
			}
			// And from there back again.
			back, _, err := take(t, files, &VM{Memory: Bytes(data)}, Options{Parent: table})
			if err != nil {
				t.Fatal(err)
			}
			checkTable(t, back, "memory", data)
		})
	}
}

func TestDirtyBitmap(t *testing.T) {
	files := manifest.OpenFiles(t.TempDir(), nil)
	data := bytes.Repeat([]byte("0123456789abcdef"), 256*2000)
	first, _, err := take(t, files, &VM{Memory: Bytes(data)}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	now := bytes.Clone(data)
	now[4096*77] = 1
	dirty := make(chunker.Bitmap, 250)
	dirty[77/8] |= 1 << (77 % 8)
	table, sink, err := take(t, files, &VM{Memory: Bytes(now)}, Options{Parent: first, Dirty: dirty})
	if err != nil || len(sink) != 1 {
		t.Fatalf("%d chunks, %v", len(sink), err)
	}
	checkTable(t, table, "memory", now)

	// A bitmap that misses a page in four is found out by a sample.
	for i := 0; i < 2000; i += 4 {
		now[i*4096+1]++
	}
	if _, _, err := take(t, files, &VM{Memory: Bytes(now)}, Options{Parent: first, Dirty: dirty, CleanSample: 10}); !errors.Is(err, ErrDirtyBitmap) {
		t.Errorf("a wrong bitmap: %v", err)
	}
	if _, _, err := take(t, files, &VM{Memory: Bytes(now)}, Options{Dirty: dirty}); err == nil {
		t.Error("a bitmap without a parent was taken")
	}
	if _, _, err := take(t, files, &VM{Memory: Bytes(now[:len(now)-4096])}, Options{Parent: first, Dirty: dirty}); err == nil {
		t.Error("a bitmap for another size was taken")
	}
}

func TestFile(t *testing.T) {
	name := filepath.Join(t.TempDir(), "ram")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	data := make([]byte, 8<<20)
	for _, at := range []int{0, 1 << 20, 5<<20 + 100, 8<<20 - 1} {
		data[at] = 1
		if _, err := f.WriteAt([]byte{1}, int64(at)); err != nil {
			t.Fatal(err)
		}
	}
	src, err := OpenFile(name)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	table, sink, err := take(t, manifest.OpenFiles(t.TempDir(), nil), &VM{Memory: src}, Options{})
	if err != nil || len(sink) != 3 {
		t.Fatalf("%d chunks, %v", len(sink), err)
	}
	checkTable(t, table, "memory", data)

	// A file that shrinks is an error, also where it ends in a hole.
	for _, size := range []int64{6 << 20, 4096, 0} {
		if err := f.Truncate(size); err != nil {
			t.Fatal(err)
		}
		if _, _, err := take(t, manifest.OpenFiles(t.TempDir(), nil), &VM{Memory: src}, Options{}); !errors.Is(err, chunker.ErrShort) {
			t.Errorf("shrunk to %d: %v", size, err)
		}
	}
	if _, err := OpenFile(t.TempDir()); err == nil {
		t.Error("a directory was opened")
	}
}

func TestBadVMs(t *testing.T) {
	ram := Bytes(make([]byte, 4096))
	for name, vm := range map[string]*VM{
		"no memory":     {},
		"memory twice":  {Memory: ram, State: map[string]chunker.Source{"memory": ram}},
		"a name upward": {Memory: ram, State: map[string]chunker.Source{"../x": ram}},
		"stream twice":  {Memory: ram, State: map[string]chunker.Source{"x": ram}, MachineState: map[string]chunker.Source{"x": ram}},
		"outside":       {Memory: ram, Machine: &manifest.Machine{Regions: []manifest.Region{{Size: 8192}}}},
		"no such state": {Memory: ram, Machine: &manifest.Machine{VCPUs: []manifest.VCPU{{State: "vcpu/0"}}}},
	} {
		if _, _, err := take(t, manifest.OpenFiles(t.TempDir(), nil), vm, Options{}); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
