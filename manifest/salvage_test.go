package manifest

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/arcboxlabs/arcstore/chunker"
	"github.com/arcboxlabs/arcstore/store/disk"
)

// Each leaf of each layer, and each layer as a whole, damaged in turn: what Salvage gives is right or a gap, there are gaps
// only where the damage is, and Lookup fails where there are gaps and nowhere else.
func TestSalvage(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	files := OpenFiles(dir, disk.OS)
	const size = 3*leafChunks + 100
	rng := rand.New(rand.NewPCG(3, 1))
	ids := make([]chunker.ID, size)
	random := func(from, to int) {
		for i := from; i < to; i++ {
			if ids[i] = (chunker.ID{}); rng.IntN(4) > 0 {
				ids[i] = chunker.Sum([]byte{byte(rng.Uint32()), byte(rng.Uint32()), 1})
			}
		}
	}
	random(0, size)
	var digests []Digest
	var parent *Table
	for layer := range 4 {
		b, err := files.Build(ctx, 4096, parent)
		if err != nil {
			t.Fatal(err)
		}
		s, err := b.Stream("memory", size*4096)
		if err != nil {
			t.Fatal(err)
		}
		if layer == 0 {
			err = s.Append(ids)
		} else {
			// A few entries in one leaf, and the whole of another.
			few, whole := layer%3*leafChunks+77, (layer+1)%3*leafChunks
			random(few, few+200)
			random(whole, whole+leafChunks)
			at := 0
			for _, r := range [][2]int{{min(few, whole), 0}, {max(few, whole), 0}} {
				n := 200
				if r[0] == whole {
					n = leafChunks
				}
				err = errors.Join(err, s.Inherit(int64(r[0]-at)), s.Append(ids[r[0]:r[0]+n]))
				at = r[0] + n
			}
			err = errors.Join(err, s.Inherit(int64(size-at)))
		}
		if err != nil {
			t.Fatal(err)
		}
		d, err := b.Commit(ctx)
		if err != nil {
			t.Fatal(err)
		}
		digests = append(digests, d)
		if parent, err = files.Open(ctx, d); err != nil {
			t.Fatal(err)
		}
		defer parent.Close()
	}
	if len(parent.layers) != 4 {
		t.Fatalf("%d layers", len(parent.layers))
	}
	last := digests[3]
	// check reads the last manifest and returns how many entries are gaps; -1 if it cannot be opened.
	check := func(what string) int {
		t.Helper()
		table, err := files.OpenDamaged(ctx, last)
		if err != nil {
			if !isDamage(err) {
				t.Errorf("%s: %v", what, err)
			}
			return -1
		}
		defer table.Close()
		strict, serr := files.Open(ctx, last)
		if _, broken := table.Broken(); (broken == nil) != (serr == nil) {
			t.Errorf("%s: broken is %v, but Open says %v", what, broken, serr)
		}
		if serr == nil {
			defer strict.Close()
		}
		s, err := table.Stream("memory")
		if err != nil {
			t.Fatal(err)
		}
		got := make([]chunker.ID, size)
		gaps, err := s.Salvage(0, got)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		isGap, n := make([]bool, size), 0
		for _, g := range gaps {
			for i := g.First; i < g.First+g.Count; i++ {
				isGap[i] = true
				n++
			}
			if !isDamage(g.Why) {
				t.Errorf("%s: a gap because of %v", what, g.Why)
			}
		}
		for i := range got {
			if isGap[i] && !got[i].IsHole() || !isGap[i] && got[i] != ids[i] {
				t.Fatalf("%s: entry %d came back as another (gap: %v)", what, i, isGap[i])
			}
		}
		for leaf := 0; leaf < size; leaf += leafChunks {
			end := min(size, leaf+leafChunks)
			some := false
			for i := leaf; i < end; i++ {
				some = some || isGap[i]
			}
			if err := s.Lookup(int64(leaf), make([]chunker.ID, end-leaf)); (err != nil) != some || err != nil && !isDamage(err) {
				t.Errorf("%s: leaf at %d has gaps: %v, but Lookup says %v", what, leaf, some, err)
			}
		}
		return n
	}
	if n := check("sound"); n != 0 {
		t.Fatalf("%d gaps in a sound manifest", n)
	}
	none := 0
	for layer, d := range digests {
		name := files.path(d)
		sound, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		l := parent.layers[3-layer]
		rs := l.root.stream("memory")
		for i := range rs.leafCount() {
			p := rs.place(i)
			b := bytes.Clone(sound)
			b[p.offset+p.length/2] ^= 1
			if err := os.WriteFile(name, b, 0o600); err != nil {
				t.Fatal(err)
			}
			switch n := check("a leaf"); {
			case n < 0 || n > leafChunks:
				t.Errorf("leaf %d of layer %d costs %d entries", p.number, layer, n)
			case n == 0:
				none++ // newer layers say it all
			}
		}
		for what, b := range map[string][]byte{"root": bytes.Clone(sound), "cut": sound[:len(sound)/2], "empty": {}} {
			if what == "root" {
				b[l.end+70] ^= 1
			}
			if err := os.WriteFile(name, b, 0o600); err != nil {
				t.Fatal(err)
			}
			if n := check(what); (n < 0) != (layer == 3) {
				t.Errorf("%s of layer %d: %d gaps", what, layer, n)
			}
		}
		os.Remove(name)
		if n := check("gone"); (n < 0) != (layer == 3) || layer < 3 && n == 0 {
			t.Errorf("layer %d gone: %d gaps", layer, n)
		}
		if err := os.WriteFile(name, sound, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if none == 0 {
		t.Error("no leaf was outweighed by newer ones")
	}
	if n := check("sound again"); n != 0 {
		t.Errorf("%d gaps in the end", n)
	}
}
