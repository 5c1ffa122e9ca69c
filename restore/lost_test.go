package restore

import (
	"bytes"
	"context"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/arcboxlabs/arcstore/chunker"
)

// What cannot be had is left out, named to the byte, and everything else is right; by every way there is to restore.
func TestLost(t *testing.T) {
	ctx := context.Background()
	want := memory(7, 45<<20+77)
	table, src := snapshot(t, map[string][]byte{"memory": want})
	s, err := table.Stream("memory")
	if err != nil {
		t.Fatal(err)
	}
	lost := map[chunker.ID]bool{chunker.Sum(want[len(want)/chunkSize*chunkSize:]): true}
	for i, id := range slices.SortedFunc(maps.Keys(src), func(a, b chunker.ID) int { return bytes.Compare(a[:], b[:]) }) {
		if i%50 == 0 {
			lost[id] = true
		}
	}
	for id := range lost {
		delete(src, id)
	}
	expected := map[int64]int64{}
	for off := int64(0); off < int64(len(want)); off += chunkSize {
		part := want[off:min(off+chunkSize, int64(len(want)))]
		if !chunker.IsZero(part) && lost[chunker.Sum(part)] {
			expected[off] = int64(len(part))
			clear(part)
		}
	}
	if len(expected) < 10 {
		t.Fatalf("only %d chunks are lost", len(expected))
	}
	check := func(how string, got []byte, ranges []Range) {
		t.Helper()
		if !bytes.Equal(got, want) {
			t.Errorf("%s: other bytes came back", how)
		}
		named := map[int64]int64{}
		for _, r := range ranges {
			named[r.Offset] = r.Length
			if r.Why == nil {
				t.Errorf("%s: %+v", how, r)
			}
		}
		if !maps.Equal(named, expected) {
			t.Errorf("%s: %d ranges are named, want %d", how, len(named), len(expected))
		}
	}
	for _, zeros := range []bool{false, true} {
		var ranges []Range
		buf := make(buffer, len(want))
		if zeros {
			for i := range buf {
				buf[i] = 0xaa
			}
		}
		if _, err := Stream(ctx, s, src, buf, Options{ChunkSize: chunkSize, Zeros: zeros, Lost: func(r Range) { ranges = append(ranges, r) }}); err != nil {
			t.Fatal(err)
		}
		check("stream", buf, ranges)
	}
	var ranges []Range
	var out bytes.Buffer
	if _, err := Sequential(ctx, s, src, &out, Options{ChunkSize: chunkSize, Lost: func(r Range) { ranges = append(ranges, r) }}); err != nil {
		t.Fatal(err)
	}
	check("sequential", out.Bytes(), ranges)
	ranges = nil
	dir := filepath.Join(t.TempDir(), "out")
	_, err = Dir(ctx, table, src, dir, DirOptions{ChunkSize: chunkSize, Lost: func(stream string, r Range) {
		if stream != "memory" {
			t.Errorf("lost of %s", stream)
		}
		ranges = append(ranges, r)
	}})
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(dir, "memory"))
	if err != nil {
		t.Fatal(err)
	}
	check("dir", b, ranges)
}
