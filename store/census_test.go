package store

import (
	"context"
	"slices"
	"testing"

	"github.com/arcboxlabs/arcstore/chunker"
)

// Of a chunk that is in two packs one copy counts, the newer one, also for who comes upon the older one
// right after its neighbour; and a sweep leaves no chunk twice.
func TestCensusOfCopies(t *testing.T) {
	ctx := context.Background()
	s := newStore(t, Config{})
	const pages = 600
	var ids []chunker.ID
	// Two writers that do not know of each other: the second has every third page of the first.
	first, err := s.NewWriter(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	second, err := s.NewWriter(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	var shared []chunker.ID
	for n := range uint64(pages) {
		b := page(n, 4096)
		id := chunker.Sum(b)
		ids = append(ids, id)
		if err := first.Put(id, b); err != nil {
			t.Fatal(err)
		}
		if n%3 == 1 {
			shared = append(shared, id)
			if err := second.Put(id, b); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, w := range []*Writer{first, second} {
		if _, err := w.Commit(); err != nil {
			t.Fatal(err)
		}
		w.Close()
	}
	live := Live{Groups: 2, Walk: func(_ context.Context, group int, visit func([]chunker.ID) error) error {
		return visit(slices.Clone([][]chunker.ID{shared, ids}[group]))
	}}
	before, err := s.Census(ctx, live)
	if err != nil {
		t.Fatal(err)
	}
	if want := int64(pages + len(shared)); before.Chunks != want {
		t.Fatalf("the store has %d chunks, want %d: the writers know of each other", before.Chunks, want)
	}
	for range 2 {
		swept, err := s.Sweep(ctx, func(context.Context) (Live, error) { return live, nil }, SweepOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if swept.Live != pages {
			t.Errorf("%d chunks are live, want %d", swept.Live, pages)
		}
	}
	after, err := s.Census(ctx, live)
	if err != nil {
		t.Fatal(err)
	}
	if after.Chunks*100 > pages*103 || after.Groups[0].Lacks+after.Groups[1].Lacks > 0 {
		t.Errorf("after a sweep there are %d chunks, of which %d are live; lacking %d and %d", after.Chunks, pages, after.Groups[0].Lacks, after.Groups[1].Lacks)
	}
}
