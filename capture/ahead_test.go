package capture

import (
	"bytes"
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/arcboxlabs/arcstore/chunker"
)

// TestAhead: exactly the pages that are not what was read of them are found, whatever was a hole then or is one now.
func TestAhead(t *testing.T) {
	const pages = 700 // the last one is short
	size := int64(pages*chunker.PageSize - 100)
	rng := rand.New(rand.NewPCG(1, 2))
	for round := range 20 {
		f, err := os.Create(filepath.Join(t.TempDir(), "memory"))
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Truncate(size); err != nil {
			t.Fatal(err)
		}
		write := func(page int64, b byte) {
			data := bytes.Repeat([]byte{b}, chunker.PageSize)[:min(chunker.PageSize, size-page*chunker.PageSize)]
			if _, err := f.WriteAt(data, page*chunker.PageSize); err != nil {
				t.Fatal(err)
			}
		}
		for page := range int64(pages) {
			if rng.IntN(100) < 5*round {
				write(page, byte(rng.IntN(3)))
			}
		}
		src, err := NewFile(f)
		if err != nil {
			t.Fatal(err)
		}
		defer src.Close()
		before := wholeOf(t, src)
		ahead := ReadAhead(src)
		if round%2 == 0 {
			// As a capture reads it.
			if err := chunker.Split(context.Background(), ahead, chunker.Options{ChunkSize: 4096}, func(*chunker.Batch) error { return nil }); err != nil {
				t.Fatal(err)
			}
		} else {
			wholeOf(t, ahead)
		}
		for range rng.IntN(50) {
			write(rng.Int64N(pages), byte(rng.IntN(4)))
		}
		after := wholeOf(t, src)
		dirty, err := ahead.Changed(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		if err := dirty.Check(size); err != nil {
			t.Fatal(err)
		}
		for page := range int64(pages) {
			at, end := page*chunker.PageSize, min((page+1)*chunker.PageSize, size)
			changed := !bytes.Equal(before[at:end], after[at:end])
			if got := dirty[page/8]&(1<<(page%8)) != 0; got != changed {
				t.Fatalf("round %d, page %d: changed %v, said %v", round, page, changed, got)
			}
			kept := make([]byte, end-at)
			if err := chunker.ReadFull(ahead.Copy(), kept, at); (err == nil) != changed || changed && !bytes.Equal(kept, after[at:end]) {
				t.Fatalf("round %d, page %d: changed %v, kept %v", round, page, changed, err)
			}
		}
	}
}

func wholeOf(t *testing.T, src chunker.Source) []byte {
	t.Helper()
	b := make([]byte, src.Size())
	if err := chunker.ReadFull(src, b, 0); err != nil {
		t.Fatal(err)
	}
	return b
}

// TestAheadReadTwice: of a page that was read twice, and differed, nobody knows which of the two was kept.
func TestAheadReadTwice(t *testing.T) {
	memory := make([]byte, 3*chunker.PageSize)
	copy(memory, "one")
	copy(memory[chunker.PageSize:], "two")
	a := ReadAhead(Bytes(memory))
	wholeOf(t, a)
	memory[0] = 'O'
	wholeOf(t, a)
	memory[0] = 'o'
	dirty, err := a.Changed(context.Background())
	if err != nil || dirty[0] != 1 {
		t.Errorf("%b, %v", dirty, err)
	}
	// Nor of one that was read in parts.
	a = ReadAhead(Bytes(memory))
	a.ReadAt(make([]byte, 100), chunker.PageSize)
	if dirty, err := a.Changed(context.Background()); err != nil || dirty[0] != 3 {
		t.Errorf("%b, %v", dirty, err)
	}
}
