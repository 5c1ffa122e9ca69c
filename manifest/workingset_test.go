package manifest

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/arcboxlabs/arcstore/store/crypt"
)

func TestWorkingSet(t *testing.T) {
	for _, pages := range [][]uint32{nil, {0}, {7, 3, 1 << 20, 0, 12}} {
		w := &WorkingSet{Size: 8 << 30, Pages: pages}
		b, err := w.Encode()
		if err != nil {
			t.Fatal(err)
		}
		got, err := DecodeWorkingSet(b)
		if err != nil || got.Size != w.Size || !slices.Equal(got.Pages, pages) {
			t.Errorf("%v, %v", got, err)
		}
		for bit := range len(b) * 8 {
			b[bit/8] ^= 1 << (bit % 8)
			if _, err := DecodeWorkingSet(b); err == nil {
				t.Errorf("bit %d flipped is not noticed", bit)
			}
			b[bit/8] ^= 1 << (bit % 8)
		}
	}
	for name, w := range map[string]*WorkingSet{"twice": {Size: 1 << 20, Pages: []uint32{3, 3}}, "outside": {Size: 1 << 20, Pages: []uint32{256}}, "negative": {Size: -1}} {
		if _, err := w.Encode(); err == nil {
			t.Errorf("%s: it was encoded", name)
		}
	}
}

func TestWorkingSets(t *testing.T) {
	ctx := context.Background()
	for _, key := range []*crypt.Key{nil, crypt.NewKey()} {
		dir := filepath.Join(t.TempDir(), "working-sets")
		sets := OpenWorkingSets(dir, nil, key)
		a, b := NewID(), NewID()
		if _, err := sets.Get(ctx, a); !errors.Is(err, ErrNotFound) {
			t.Error(err)
		}
		w := &WorkingSet{Size: 1 << 20, Pages: []uint32{5, 4}}
		for _, id := range []string{a, b} {
			if err := sets.Put(ctx, id, w); err != nil {
				t.Fatal(err)
			}
		}
		file, err := sets.File(ctx, a)
		if err != nil || (key != nil) == bytes.Contains(file, []byte(workingSetMagic)) {
			t.Error(err)
		}
		// Under another name, it is no working set of an encrypted store's.
		if err := sets.Import(ctx, b, file); (key != nil) != (err != nil) {
			t.Error(err)
		}
		if err := sets.Keep(ctx, map[string]bool{a: true}); err != nil {
			t.Fatal(err)
		}
		if got, err := sets.Get(ctx, a); err != nil || !slices.Equal(got.Pages, w.Pages) {
			t.Error(got, err)
		}
		if _, err := sets.Get(ctx, b); !errors.Is(err, ErrNotFound) {
			t.Error(err)
		}
		if err := os.WriteFile(filepath.Join(dir, a), file[:len(file)-1], 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := sets.Get(ctx, a); !errors.Is(err, ErrNotFound) {
			t.Error("one that is damaged: ", err)
		}
	}
}

func FuzzWorkingSet(f *testing.F) {
	b, _ := (&WorkingSet{Size: 1 << 20, Pages: []uint32{3, 200, 7}}).Encode()
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		w, err := DecodeWorkingSet(b)
		if err != nil {
			return
		}
		again, err := w.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := DecodeWorkingSet(again); err != nil || !slices.Equal(got.Pages, w.Pages) {
			t.Fatal(err)
		}
	})
}
