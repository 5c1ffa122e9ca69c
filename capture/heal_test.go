package capture

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"slices"
	"testing"

	"github.com/arcboxlabs/arcstore/chunker"
	"github.com/arcboxlabs/arcstore/manifest"
	"github.com/arcboxlabs/arcstore/store/disk"
)

// What the store says is damaged is put again, though it is as in the parent; with a bitmap, it and nothing else is read.
func TestHeal(t *testing.T) {
	files := manifest.OpenFiles(t.TempDir(), disk.OS)
	data := make([]byte, 5000*4096-100)
	for i := 0; i < 5000; i += 2 {
		data[i*4096+5], data[i*4096+6] = byte(i), byte(i>>8)+1
	}
	first, all, err := take(t, files, &VM{Memory: Bytes(data)}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	bad := map[chunker.ID]bool{}
	for _, page := range []int{0, 2, 4, 100, 4094, 4096, 4998} {
		bad[chunker.Sum(data[page*4096:min((page+1)*4096, len(data))])] = true
	}
	damaged := func(id chunker.ID) bool { return bad[id] }
	for name, opts := range map[string]Options{
		"no bitmap": {},
		"bitmap":    {Dirty: make(chunker.Bitmap, 625), CleanSample: -1},
		"sample":    {Dirty: make(chunker.Bitmap, 625), CleanSample: 1},
	} {
		opts.Parent, opts.Damaged = first, damaged
		table, sink, err := take(t, files, &VM{Memory: Bytes(data)}, opts)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		checkTable(t, table, "memory", data)
		if got := slices.Collect(maps.Keys(sink)); len(got) != len(bad) || slices.ContainsFunc(got, func(id chunker.ID) bool { return !bad[id] }) {
			t.Errorf("%s: %d chunks were put of %d that are damaged", name, len(got), len(bad))
		}
	}
	// A page that is called clean, is damaged, and is another now: the bitmap is wrong.
	now := bytes.Clone(data)
	now[100*4096] = 1
	opts := Options{Parent: first, Damaged: damaged, Dirty: make(chunker.Bitmap, 625), CleanSample: -1}
	if _, _, err := take(t, files, &VM{Memory: Bytes(now)}, opts); !errors.Is(err, ErrDirtyBitmap) {
		t.Errorf("a page that is not clean: %v", err)
	}
	// One that is dirty and new is no matter of healing.
	opts.Dirty[100/8] |= 1 << (100 % 8)
	if table, _, err := take(t, files, &VM{Memory: Bytes(now)}, opts); err != nil {
		t.Error(err)
	} else {
		checkTable(t, table, "memory", now)
	}

	// Where the parent's page table is damaged, everything in its range is put.
	ctx := context.Background()
	spoilt := &brokenParent{first, 4096, 5000}
	for name, so := range map[string]StreamOptions{
		"no bitmap": {ChunkSize: chunkSize},
		"bitmap":    {ChunkSize: chunkSize, Dirty: make(chunker.Bitmap, 625), CleanSample: 1, Damaged: func(chunker.ID) bool { return false }},
	} {
		b, err := files.Build(ctx, chunkSize, first)
		if err != nil {
			t.Fatal(err)
		}
		defer b.Abort()
		out, err := b.Stream("memory", int64(len(data)))
		if err != nil {
			t.Fatal(err)
		}
		if so.Parent, err = spoilt.stream("memory"); err != nil {
			t.Fatal(err)
		}
		sink := put{}
		if _, err := Stream(ctx, Bytes(data), sink, out, so); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if len(sink) != (5000-4096)/2 {
			t.Errorf("%s: %d chunks were put of %d", name, len(sink), len(all))
		}
	}
}

// brokenParent is page tables of which a range cannot be read.
type brokenParent struct {
	*manifest.Table
	from, to int64
}

type brokenStream struct {
	*manifest.StreamTable
	p *brokenParent
}

func (p *brokenParent) stream(name string) (*brokenStream, error) {
	s, err := p.Stream(name)
	return &brokenStream{s, p}, err
}

func (s *brokenStream) Lookup(first int64, ids []chunker.ID) error {
	if first < s.p.to && first+int64(len(ids)) > s.p.from {
		return &manifest.CorruptError{File: "x", Why: "it is broken"}
	}
	return s.StreamTable.Lookup(first, ids)
}
