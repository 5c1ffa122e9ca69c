package store

import (
	"bytes"
	"context"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Whatever happens to a file of the index, the store works on, and the index is right again
// without being asked: at the latest the second create stores nothing twice.
func TestIndexDamage(t *testing.T) {
	s := newStore(t, Config{})
	m := model{}
	put(t, s, m, 0, 3000)
	if _, err := s.Reindex(context.Background()); err != nil {
		t.Fatal(err)
	}
	dir := s.Dir()
	s.Close()
	sound := map[string][]byte{}
	root := filepath.Join(dir, IndexDir)
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, _ := filepath.Rel(root, name)
		sound[rel], err = os.ReadFile(name)
		return err
	})
	if err != nil || len(sound) < 4 {
		t.Fatalf("%d files, %v", len(sound), err)
	}
	packs := func() map[string][]byte {
		all := map[string][]byte{}
		names, _ := filepath.Glob(filepath.Join(dir, packsName, "*", "*"))
		for _, name := range names {
			all[name] = nil
		}
		return all
	}
	before := packs()
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 2))
	flip := func(b []byte) []byte {
		b = bytes.Clone(b)
		if len(b) > 0 {
			b[rng.IntN(len(b))] ^= 1 << rng.IntN(8)
		}
		return b
	}
	garbage := func(b []byte) []byte {
		b = make([]byte, len(b))
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		return b
	}
	type change struct {
		what string
		do   func(b []byte) []byte // nil deletes the file
	}
	changes := []change{{"deleted", nil}, {"empty", func([]byte) []byte { return []byte{} }},
		{"cut", func(b []byte) []byte { return b[:rng.IntN(len(b)+1)] }}, {"garbage", garbage}, {"zeros", func(b []byte) []byte { return make([]byte, len(b)) }}}
	flips := 1
	if os.Getenv("ARCSTORE_TEST_LONG") != "" {
		flips = 12
	}
	for range flips {
		changes = append(changes, change{"flipped", flip})
	}
	names := slices.Sorted(maps.Keys(sound))
	for name := range sound {
		// A process that was killed leaves no list of the files.
		if filepath.Ext(name) == ".sst" {
			names = append(names, name+" unlisted")
		}
	}
	for _, name := range names {
		name, unlisted := strings.CutSuffix(name, " unlisted")
		for _, c := range changes {
			os.RemoveAll(root)
			for other, b := range sound {
				if other == name && c.do == nil || unlisted && other == filesName {
					continue
				}
				if other == name {
					b = c.do(b)
				}
				os.MkdirAll(filepath.Dir(filepath.Join(root, other)), 0o700)
				if err := os.WriteFile(filepath.Join(root, other), b, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			again := int64(0)
			for round := range 2 {
				s, err := Open(context.Background(), dir, Options{})
				if err != nil {
					t.Fatalf("%s %s, seed %d: %v", name, c.what, seed, err)
				}
				_, w := put(t, s, model{}, 0, 3000)
				if again = w.Chunks; round == 0 {
					m.check(t, s, nil)
				}
				if err := s.Close(); err != nil {
					t.Errorf("%s %s, seed %d: close: %v", name, c.what, seed, err)
				}
			}
			if again != 0 {
				t.Errorf("%s %s, seed %d: %d chunks were stored again twice", name, c.what, seed, again)
			}
			for pack := range packs() {
				if _, ok := before[pack]; !ok {
					os.Remove(pack)
				}
			}
		}
	}
}

func FuzzBadgerTable(f *testing.F) {
	s := newStore(f, Config{})
	put(f, s, model{}, 0, 300)
	if _, err := s.Reindex(context.Background()); err != nil {
		f.Fatal(err)
	}
	dir := s.Dir()
	s.Close()
	names, err := filepath.Glob(filepath.Join(dir, IndexDir, badgerName, "*.sst"))
	if err != nil || len(names) == 0 {
		f.Fatalf("%v, %v", names, err)
	}
	b, err := os.ReadFile(names[0])
	if err != nil || checkBadgerTable(b) != nil {
		f.Fatalf("%v: what Badger wrote is refused: %v", err, checkBadgerTable(b))
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) { checkBadgerTable(b) })
}
