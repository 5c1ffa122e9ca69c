package store

import (
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func FuzzTurns(f *testing.F) {
	f.Add(turns{PackID{1}: {1, true}, PackID{2}: {5, false}}.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, b := range [][]byte{b, appendSum(b)} {
			if x, err := decodeTurns(b); err == nil && len(x) != (len(b)-turnsHeadSize-4)/turnSize {
				t.Error("turns were lost")
			}
		}
	})
}

// Ten nights of a tenth cover everything, new packs come to their turn, and a lost or damaged file only begins anew.
func TestTurns(t *testing.T) {
	ctx := context.Background()
	s := newStore(t, Config{})
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 1))
	n := uint64(0)
	grow := func(packs int) {
		for range packs {
			next := n + 20 + rng.Uint64N(200)
			put(t, s, model{}, n, next)
			n = next
		}
	}
	grow(25)
	for round := range 2 {
		read := int64(0)
		for night := range 10 {
			v, err := s.Verify(ctx, VerifyOptions{Data: 10})
			if err != nil {
				t.Fatal(err)
			}
			if v.Packs < 25 || v.BytesRead*10 < v.BytesTotal || v.BytesRead*10 > v.BytesTotal*4 {
				t.Errorf("night %d: %d bytes of %d in %d packs", night, v.BytesRead, v.BytesTotal, v.PacksRead)
			}
			if read += v.BytesRead; round == 0 && (v.NeverRead == 0) != (read == v.BytesTotal) && night < 5 {
				t.Errorf("night %d: %d were read, never %d", night, read, v.NeverRead)
			}
			if night == 9 && (v.NeverRead != 0 || time.Since(v.Since) > time.Minute) {
				t.Errorf("after ten nights (seed %d): never %d of %d, since %v", seed, v.NeverRead, v.BytesTotal, v.Since)
			}
		}
	}
	// In a store that grows, the old and the new ones take turns.
	old, err := s.listPacks(ctx)
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	for range 10 {
		grow(2)
		if _, err := s.Verify(ctx, VerifyOptions{Data: 20}); err != nil {
			t.Fatal(err)
		}
	}
	for id := range old {
		if x := loadTurns(s.disk, s.dir)[id]; !x.read || time.Unix(0, x.at).Before(start) {
			t.Errorf("pack %s was left out", id)
		}
	}
	name := filepath.Join(s.dir, turnsName)
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if v, err := s.Verify(ctx, VerifyOptions{Data: 10}); err != nil || v.NeverRead != v.BytesTotal-v.BytesRead {
		t.Errorf("after the file was damaged: %+v, %v", v, err)
	}
}
