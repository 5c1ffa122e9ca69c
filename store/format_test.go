package store

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/arcboxlabs/arcstore/chunker"
	"github.com/arcboxlabs/arcstore/store/disk"
)

var update = flag.Bool("update", false, "rewrite the golden files")

const goldenPack = "testdata/v1/pack"

// goldenTable writes the pack that the golden file holds: every codec, short
// chunks, a frame of one chunk; time and salt fixed.
func goldenTable(t testing.TB, dir string) (*table, model) {
	t.Helper()
	if err := os.MkdirAll(filepath.Join(dir, packsName), 0o700); err != nil {
		t.Fatal(err)
	}
	p, err := (&Store{disk: disk.OS, dir: dir, config: Config{ChunkSize: 4096}, packSize: PackSize}).newPackWriter()
	if err != nil {
		t.Fatal(err)
	}
	p.table.created, p.table.salt = 1_700_000_000_000_000_000, 0x0123456789abcdef
	m := model{}
	var e encoder
	frames := []struct {
		codec   Codec
		lengths []int
	}{
		{LZ4, []int{4096, 4096, 4096, 100}},
		{Zstd, []int{4096, 4096}},
		{Raw, []int{60}},
		{LZ4, []int{17, 1}},
	}
	n := uint64(0)
	for _, f := range frames {
		var raw []byte
		var ids []chunker.ID
		shorts := map[int]int{}
		for i, length := range f.lengths {
			b := bytes.Repeat(fmt.Appendf(nil, "page %d; ", n), 4096/8)[:length]
			n++
			ids = append(ids, chunker.Sum(b))
			m[ids[i]] = b
			raw = append(raw, b...)
			if length < 4096 {
				shorts[i] = length
			}
		}
		codec, stored, err := e.encode(nil, raw, f.codec)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.add(codec, stored, len(raw), ids, shorts); err != nil {
			t.Fatal(err)
		}
	}
	table, err := p.seal()
	if err != nil {
		t.Fatal(err)
	}
	return table, m
}

// The files of format 1 that are out there must stay readable, and what is
// written must stay what they are. (The compressors may change their output; the
// container around it may not.)
func TestGoldenPack(t *testing.T) {
	dir := t.TempDir()
	table, m := goldenTable(t, dir)
	written, err := os.ReadFile(packPath(dir, table.pack))
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.MkdirAll(filepath.Dir(goldenPack), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(goldenPack, written, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	golden, err := os.ReadFile(goldenPack)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(golden, written) {
		t.Errorf("what is written (%d bytes) differs from %s (%d bytes)", len(written), goldenPack, len(golden))
	}
	s := newStore(t, Config{})
	old, err := readTable(bytes.NewReader(golden), int64(len(golden)), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(packPath(s.dir, old.pack), golden, 0o600); err != nil {
		t.Fatal(err)
	}
	m.check(t, s, []PackID{old.pack})
}

// No flipped bit of a pack ever shows as other bytes: a fetch fails, and
// verification tells, or, where the bit belongs to another chunk, the bytes are right.
func TestEveryBitOfAPack(t *testing.T) {
	ctx := context.Background()
	s := newStore(t, Config{})
	table, m := goldenTable(t, s.dir)
	path := packPath(s.dir, table.pack)
	sound, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	ids := m.ids()
	step := 1
	if testing.Short() {
		step = 37
	}
	for bit := 0; bit < len(sound)*8; bit += step {
		b := bytes.Clone(sound)
		b[bit/8] ^= 1 << (bit % 8)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		f := s.NewFetcher([]PackID{table.pack})
		err = f.Fetch(ctx, ids, func(i int, data []byte) error {
			for ; len(data) > 0; i++ {
				want := m[ids[i]]
				if len(data) < len(want) || !bytes.Equal(data[:len(want)], want) {
					return fmt.Errorf("other bytes")
				}
				data = data[len(want):]
			}
			return nil
		})
		if err != nil && !errors.Is(err, ErrCorrupt) {
			t.Fatalf("bit %d: %v", bit, err)
		}
		f.Close()
		v := packVerifier{s: s, id: table.pack, data: true, advance: func(int64) {}}
		err = v.verify(ctx)
		if err != nil || len(v.damage) == 0 {
			t.Fatalf("bit %d of byte %d: verification says %v, %v", bit%8, bit/8, v.damage, err)
		}
	}
}

func FuzzTable(f *testing.F) {
	table, _ := goldenTable(f, f.TempDir())
	f.Add(table.encode(), int64(packHeaderSize))
	f.Fuzz(func(t *testing.T, b []byte, end int64) {
		table, err := decodeTable(b, end, nil)
		if err != nil {
			return
		}
		if !bytes.Equal(table.encode(), b) {
			t.Error("a table that decodes encodes to something else")
		}
		for slot := range table.slots() {
			if at := table.frameOf(slot); at < 0 || at >= len(table.frames) {
				t.Errorf("slot %d is in frame %d of %d", slot, at, len(table.frames))
			}
		}
	})
}

func FuzzPack(f *testing.F) {
	golden, err := os.ReadFile(goldenPack)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(golden)
	f.Fuzz(func(t *testing.T, b []byte) {
		table, err := readTable(bytes.NewReader(b), int64(len(b)), nil)
		if err != nil {
			return
		}
		if table.size != int64(len(b)) {
			t.Errorf("a pack of %d bytes was taken for %d", len(b), table.size)
		}
	})
}

func FuzzFrame(f *testing.F) {
	var e encoder
	for _, codec := range []Codec{Raw, LZ4, Zstd} {
		codec, stored, err := e.encode(nil, page(1, 10000), codec)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uint8(codec), stored, 10000)
	}
	f.Fuzz(func(t *testing.T, codec uint8, stored []byte, rawLen int) {
		if rawLen < 0 || rawLen > maxFrameRaw {
			return
		}
		var d decoder
		defer d.close()
		raw, err := d.decode(nil, stored, Codec(codec), rawLen)
		if err == nil && len(raw) != rawLen {
			t.Errorf("%d bytes, want %d", len(raw), rawLen)
		}
	})
}

func FuzzConfig(f *testing.F) {
	good, err := EncodeConfig(Config{Format: 1, ID: "00", ChunkSize: 4096, Compression: "lz4"})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good[:len(good)-configSumSize])
	f.Fuzz(func(t *testing.T, b []byte) {
		// The checksum keeps random bytes out; behind it nothing may be trusted either.
		for _, b := range [][]byte{b, append(bytes.Clone(b), configSum(b)...)} {
			c, err := DecodeConfig(b)
			if err == nil && (c.Format != FormatVersion || chunker.CheckChunkSize(c.ChunkSize) != nil) {
				t.Errorf("%+v was taken", c)
			}
		}
	})
}

func FuzzSummary(f *testing.F) {
	x := &index{numbers: map[PackID]uint32{}, packs: []PackID{{1}, {2}}, stamp: newStamp()}
	id := chunker.Sum([]byte("x"))
	x.filter.add(&id)
	f.Add(x.encodeSummary()[:200])
	f.Fuzz(func(t *testing.T, b []byte) {
		// The checksum keeps random bytes out; behind it nothing may be trusted either.
		for _, b := range [][]byte{b, fixSum(b)} {
			x := &index{numbers: map[PackID]uint32{}}
			if err := x.decodeSummary(b); err != nil && !errors.Is(err, ErrCorrupt) {
				t.Error(err)
			}
		}
	})
}

func fixSum(b []byte) []byte {
	c := append([]byte(summaryMagic), 1, 0, 0, 0)
	c = append(c, b...)
	sum := checksum(c)
	return append(c, byte(sum), byte(sum>>8), byte(sum>>16), byte(sum>>24))
}

func TestSummary(t *testing.T) {
	x := &index{numbers: map[PackID]uint32{}, packs: []PackID{{1}, {2}}, stamp: newStamp()}
	var ids []chunker.ID
	for i := range 300_000 {
		ids = append(ids, chunker.Sum(fmt.Append(nil, i)))
		x.filter.add(&ids[i])
	}
	y := &index{numbers: map[PackID]uint32{}}
	if err := y.decodeSummary(x.encodeSummary()); err != nil {
		t.Fatal(err)
	}
	false_ := 0
	for i := range ids {
		if !y.filter.has(&ids[i]) {
			t.Fatalf("chunk %d was forgotten", i)
		}
		other := chunker.Sum(fmt.Append(nil, "other", i))
		if y.filter.has(&other) {
			false_++
		}
	}
	if rate := float64(false_) / float64(len(ids)); rate > 0.01 {
		t.Errorf("%.4f of what was never added is found", rate)
	} else {
		t.Logf("%.5f false positives in %d layers", rate, len(y.filter.layers))
	}
	if len(y.packs) != 2 || y.numbers[PackID{2}] != 1 || y.stamp != x.stamp {
		t.Error("the packs or the stamp were forgotten")
	}
}
