package store

import (
	"bytes"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/arcboxlabs/arcstore/store/disk"
)

// allocated returns how many bytes f allocates.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// TestHostileSizes reads files that claim to hold far more than they do: none
// makes the reader allocate for it.
func TestHostileSizes(t *testing.T) {
	const huge, limit = 1 << 40, 8 << 20
	sparse := func(name string, size int64, head, tail []byte) {
		t.Helper()
		f, err := os.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := f.Truncate(size); err != nil {
			t.Skipf("the file system holds no sparse file of %d bytes: %v", size, err)
		}
		if _, err := f.WriteAt(head, 0); err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt(tail, size-int64(len(tail))); err != nil {
			t.Fatal(err)
		}
	}
	dir := filepath.Join(t.TempDir(), "store")
	if _, err := Init(dir, Config{}, nil); err != nil {
		t.Fatal(err)
	}
	s, err := Open(t.Context(), dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()

	footer := packFooter{tableOffset: packHeaderSize, tableLength: huge - packHeaderSize - packFooterSize}
	id := PackID{1}
	sparse(packPath(dir, id), huge, packHeader(nil), footer.encode())
	for _, test := range []struct {
		name string
		read func() error
	}{
		{"table", func() error { _, err := s.loadTable(id); return err }},
		{"mark", func() error { _, err := s.damage.read(id); return err }},
		{"config", func() error { _, err := ReadConfig(dir); return err }},
		{"turns", func() error { loadTurns(disk.OS, dir); return ErrCorrupt }},
		{"index", func() error { openIndex(disk.OS, filepath.Join(dir, IndexDir)); return ErrCorrupt }},
	} {
		switch test.name {
		case "mark":
			if err := os.MkdirAll(s.damage.dir, 0o700); err != nil {
				t.Fatal(err)
			}
			sparse(s.damage.path(id), huge, []byte(markMagic), nil)
		case "config":
			sparse(filepath.Join(dir, configName), huge, []byte("{"), []byte("}"))
			sparse(filepath.Join(dir, configName[:6]+".copy"), huge, []byte("{"), []byte("}"))
		case "turns":
			sparse(filepath.Join(dir, turnsName), huge, []byte(turnsMagic), nil)
		case "index":
			if err := os.MkdirAll(filepath.Join(dir, IndexDir), 0o700); err != nil {
				t.Fatal(err)
			}
			sparse(filepath.Join(dir, IndexDir, summaryName), huge, []byte(summaryMagic), nil)
		}
		var err error
		if n := allocated(func() { err = test.read() }); n > limit {
			t.Errorf("%s: a sparse file of %d bytes made its reader allocate %d", test.name, huge, n)
		}
		if err == nil {
			t.Errorf("%s: a sparse file of %d bytes was read", test.name, huge)
		}
	}
}

// TestBombs decodes frames that would decompress to far more than they say.
func TestBombs(t *testing.T) {
	raw := bytes.Repeat([]byte{7}, 64<<20)
	for _, codec := range []Codec{LZ4, Zstd} {
		_, stored, err := new(encoder).encode(nil, raw, codec)
		if err != nil {
			t.Fatal(err)
		}
		var d decoder
		defer d.close()
		dst := make([]byte, frameTarget)
		n := allocated(func() { _, err = d.decode(dst, stored, codec, frameTarget) })
		if err == nil || n > 16<<20 {
			t.Errorf("%s: %d bytes that decompress to %d: %v, after %d bytes were allocated", codec, len(stored), len(raw), err, n)
		}
	}
}
