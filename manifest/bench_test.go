package manifest

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"github.com/arcboxlabs/arcstore/chunker"
)

// guestIDs returns the entries of a guest of n pages, 27 % of them data in
// runs of some dozens, as in a fresh Linux guest.
func guestIDs(r *rand.Rand, n int) []chunker.ID {
	ids := make([]chunker.ID, n)
	for i := 0; i < n; {
		run := 1 + r.IntN(60)
		if r.IntN(100) < 27 {
			for k := i; k < min(i+run, n); k++ {
				ids[k] = randomID(r)
			}
		}
		i += run
	}
	return ids
}

func randomID(r *rand.Rand) (id chunker.ID) {
	for i := 0; i < len(id); i += 8 {
		binary.LittleEndian.PutUint64(id[i:], r.Uint64())
	}
	return id
}

// buildDiff commits a manifest in which the given entries of the stream
// "memory" are new and all others as in parent.
func buildDiff(tb testing.TB, f *Files, parent *Table, n int, changed []int64, ids []chunker.ID) Digest {
	tb.Helper()
	b, err := f.Build(context.Background(), 4096, parent)
	if err != nil {
		tb.Fatal(err)
	}
	defer b.Abort()
	s, err := b.Stream(MemoryStream, int64(n)*4096)
	if err != nil {
		tb.Fatal(err)
	}
	at := int64(0)
	for i, c := range changed {
		if err := s.Inherit(c - at); err != nil {
			tb.Fatal(err)
		}
		if err := s.Append(ids[i : i+1]); err != nil {
			tb.Fatal(err)
		}
		at = c + 1
	}
	if err := s.Inherit(int64(n) - at); err != nil {
		tb.Fatal(err)
	}
	d, err := b.Commit(context.Background())
	if err != nil {
		tb.Fatal(err)
	}
	return d
}

// buildFull commits a manifest of one stream on its own.
func buildFull(tb testing.TB, f *Files, ids []chunker.ID) Digest {
	tb.Helper()
	b, err := f.Build(context.Background(), 4096, nil)
	if err != nil {
		tb.Fatal(err)
	}
	defer b.Abort()
	s, err := b.Stream(MemoryStream, int64(len(ids))*4096)
	if err != nil {
		tb.Fatal(err)
	}
	for len(ids) > 0 {
		part := ids[:min(64, len(ids))]
		if err := s.Append(part); err != nil {
			tb.Fatal(err)
		}
		ids = ids[len(part):]
	}
	d, err := b.Commit(context.Background())
	if err != nil {
		tb.Fatal(err)
	}
	return d
}

const guestPages = 262144 // 1 GiB

// changedPages returns n page numbers, sorted, in small clusters.
func changedPages(r *rand.Rand, n, pages int) []int64 {
	set := make([]bool, pages)
	for n > 0 {
		at := r.IntN(pages)
		for k := at; k < min(at+4, pages) && n > 0; k++ {
			if !set[k] {
				set[k] = true
				n--
			}
		}
	}
	var out []int64
	for i, s := range set {
		if s {
			out = append(out, int64(i))
		}
	}
	return out
}

// guestChain commits a guest and layers snapshots of it with 0.5 % of the pages changed.
func guestChain(tb testing.TB, f *Files, layers int) Digest {
	tb.Helper()
	r := rand.New(rand.NewPCG(1, 2))
	d := buildFull(tb, f, guestIDs(r, guestPages))
	for range layers {
		parent := openTable(tb, f, d)
		changed := changedPages(r, guestPages/200, guestPages)
		ids := make([]chunker.ID, len(changed))
		for i := range ids {
			ids[i] = randomID(r)
		}
		d = buildDiff(tb, f, parent, guestPages, changed, ids)
	}
	return d
}

func openTable(tb testing.TB, f *Files, d Digest) *Table {
	tb.Helper()
	t, err := f.Open(context.Background(), d)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { t.Close() })
	return t
}

func openStream(tb testing.TB, t *Table, name string) *StreamTable {
	tb.Helper()
	s, err := t.Stream(name)
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

func BenchmarkLookup(b *testing.B) {
	f := OpenFiles(b.TempDir(), nil)
	t := openTable(b, f, guestChain(b, f, 16))
	if n := len(t.Layers()); n != 17 {
		b.Fatalf("%d layers", n)
	}
	b.Run("pass", func(b *testing.B) {
		ids := make([]chunker.ID, 256)
		for b.Loop() {
			s := openStream(b, t, MemoryStream)
			for at := int64(0); at < guestPages; at += int64(len(ids)) {
				if err := s.Lookup(at, ids); err != nil {
					b.Fatal(err)
				}
			}
		}
	})
	b.Run("random", func(b *testing.B) {
		s := openStream(b, t, MemoryStream)
		r := rand.New(rand.NewPCG(3, 4))
		ids := make([]chunker.ID, 1)
		for b.Loop() {
			if err := s.Lookup(r.Int64N(guestPages), ids); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("parallel", func(b *testing.B) {
		s := openStream(b, t, MemoryStream)
		b.RunParallel(func(p *testing.PB) {
			r := rand.New(rand.NewPCG(3, rand.Uint64()))
			ids := make([]chunker.ID, 1)
			for p.Next() {
				if err := s.Lookup(r.Int64N(guestPages), ids); err != nil {
					b.Error(err)
					return
				}
			}
		})
	})
	b.Run("open", func(b *testing.B) {
		for b.Loop() {
			t, err := f.Open(context.Background(), t.Digest())
			if err != nil {
				b.Fatal(err)
			}
			t.Close()
		}
	})
}

func BenchmarkBuild(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 2))
	ids := guestIDs(r, guestPages)
	f := OpenFiles(b.TempDir(), nil)
	d := buildFull(b, f, ids)
	b.Run("full", func(b *testing.B) {
		for b.Loop() {
			buildFull(b, f, ids)
		}
	})
	b.Run("diff", func(b *testing.B) {
		t := openTable(b, f, d)
		changed := changedPages(r, guestPages/200, guestPages)
		fresh := make([]chunker.ID, len(changed))
		for i := range fresh {
			fresh[i] = randomID(r)
		}
		for b.Loop() {
			buildDiff(b, f, t, guestPages, changed, fresh)
		}
	})
	b.Run("append", func(b *testing.B) {
		x, err := f.Build(context.Background(), 4096, nil)
		if err != nil {
			b.Fatal(err)
		}
		defer x.Abort()
		s, err := x.Stream(MemoryStream, 1<<50)
		if err != nil {
			b.Fatal(err)
		}
		data := make([]chunker.ID, 70_000)
		for i := range data {
			data[i] = randomID(r)
		}
		for b.Loop() {
			if err := s.Append(data); err != nil {
				b.Fatal(err)
			}
		}
	})
}
