package store

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/arcboxlabs/arcstore/chunker"
)

// spoil flips bits in the middle of a frame of a pack, more than can be flipped back, and returns the chunks that this may cost.
func spoil(t testing.TB, s *Store, pack PackID, frame int) []chunker.ID {
	t.Helper()
	table, err := s.loadTable(pack)
	if err != nil {
		t.Fatal(err)
	}
	f := table.frames[frame]
	name := packPath(s.dir, pack)
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	b[f.offset+int64(f.stored)/2] ^= 0x11
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
	var ids []chunker.ID
	for slot := range int(f.chunks) {
		ids = append(ids, *table.id(int(f.first) + slot))
	}
	return ids
}

// salvage fetches everything in the model and returns what is lost; the rest is right.
func (m model) salvage(t testing.TB, s *Store) map[chunker.ID]bool {
	t.Helper()
	f := s.NewFetcher(nil)
	defer f.Close()
	ids := m.ids()
	lost := map[chunker.ID]bool{}
	got := make([][]byte, len(ids))
	err := f.Salvage(context.Background(), ids, func(i int, data []byte) error {
		for ; len(data) > 0; i++ {
			n := min(len(data), s.config.ChunkSize)
			got[i] = bytes.Clone(data[:n])
			data = data[n:]
		}
		return nil
	}, func(i int, why error) {
		if !errors.Is(why, ErrCorrupt) {
			t.Errorf("a chunk is lost for %v", why)
		}
		lost[ids[i]] = true
	})
	if err != nil {
		t.Fatal(err)
	}
	for i, id := range ids {
		if lost[id] == (got[i] != nil) || !lost[id] && !bytes.Equal(got[i], m[id]) {
			t.Fatalf("chunk %s: lost %v, %d bytes of %d", id, lost[id], len(got[i]), len(m[id]))
		}
	}
	return lost
}

// A fetch that meets damage notes it; from then on, here and in other processes, the damaged chunks are absent to a
// writer, until it has stored them anew; then the damaged ones are dropped by a sweep.
func TestDamageHeals(t *testing.T) {
	ctx := context.Background()
	s := newStore(t, Config{})
	m := model{}
	ids, w := put(t, s, m, 0, 600)
	if s.damage.known() {
		t.Fatal("damage is known of a new store")
	}
	may := spoil(t, s, w.Packs[0], 3)
	spoil(t, s, w.Packs[0], 7)

	reader, err := Open(ctx, s.Dir(), Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	lost := m.salvage(t, reader)
	if len(lost) == 0 || len(lost) > 2*len(may) {
		t.Fatalf("%d chunks are lost", len(lost))
	}
	if len(lost) == 2*len(may) {
		t.Errorf("nothing was had of the damaged frames")
	}
	// Nothing is lost of what is live, and a sweep leaves it as it is.
	before, _ := os.ReadFile(packPath(s.dir, w.Packs[0]))
	s.damage.load()
	swept, err := s.Sweep(ctx, live(ids), SweepOptions{})
	if err != nil || swept.Groups[0].Lacks != int64(len(lost)) || swept.Groups[0].Lost != 0 {
		t.Fatalf("a sweep of a damaged store: %+v, %v", swept, err)
	}
	if after, _ := os.ReadFile(packPath(s.dir, w.Packs[0])); !bytes.Equal(before, after) {
		t.Error("the sweep changed the pack that has what is left")
	}
	if now := m.salvage(t, s); !maps.Equal(now, lost) {
		t.Errorf("%d chunks were lost, after the sweep %d are", len(lost), len(now))
	}
	// Half of them is put again, then all, in another process.
	half := model{}
	for id := range lost {
		if len(half) < len(lost)/2 {
			half[id] = m[id]
		}
	}
	putModel(t, s, half, int64(len(half)))
	dir := s.Dir()
	s.Close()
	s = openStore(t, dir)
	putModel(t, s, m, int64(len(lost)-len(half)))
	putModel(t, s, m, 0)
	m.check(t, s, nil)
	v, err := s.Verify(ctx, VerifyOptions{Data: 100})
	if err != nil || len(v.Damage) == 0 {
		t.Fatalf("the damaged pack is still there: %+v, %v", v, err)
	}
	if swept, err = s.Sweep(ctx, live(ids), SweepOptions{}); err != nil || swept.Groups[0].Lacks != 0 {
		t.Fatalf("%+v, %v", swept, err)
	}
	if v, err = s.Verify(ctx, VerifyOptions{Data: 100}); err != nil || len(v.Damage) != 0 {
		t.Fatalf("after the sweep: %+v, %v", v, err)
	}
	if left, _ := os.ReadDir(filepath.Join(dir, damagedName)); len(left) > 0 {
		t.Errorf("%v is left in %s", left, damagedName)
	}
	m.check(t, s, nil)
}

// putModel puts all chunks, of which new ones are stored.
func putModel(t testing.TB, s *Store, m model, want int64) {
	t.Helper()
	w, err := s.NewWriter(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	for id, b := range m {
		if err := w.Put(id, b); err != nil {
			t.Fatal(err)
		}
	}
	if written, err := w.Commit(); err != nil || written.Chunks != want {
		t.Fatalf("%d chunks were stored, want %d; %v", written.Chunks, want, err)
	}
}

// A sweep that meets damage while it moves goes on, and keeps what is left.
func TestSweepMeetsDamage(t *testing.T) {
	ctx := context.Background()
	s := newStore(t, Config{})
	all := model{}
	ids, w := put(t, s, all, 0, 1000)
	var some []chunker.ID
	m := model{}
	for i := 0; i < len(ids); i += 3 {
		some = append(some, ids[i])
		m[ids[i]] = all[ids[i]]
	}
	spoil(t, s, w.Packs[0], 5)
	swept, err := s.Sweep(ctx, live(some), SweepOptions{})
	if err != nil || swept.ChunksMoved == 0 || swept.Groups[0].Lacks == 0 {
		t.Fatalf("%+v, %v", swept, err)
	}
	lost := m.salvage(t, s)
	if int64(len(lost)) != swept.Groups[0].Lacks {
		t.Errorf("%d chunks are lost, %d lack", len(lost), swept.Groups[0].Lacks)
	}
	if _, err := os.Stat(packPath(s.dir, w.Packs[0])); err != nil {
		t.Errorf("the pack with what is left is gone: %v", err)
	}
	// Once nobody needs them, it goes.
	some = slices.DeleteFunc(some, func(id chunker.ID) bool { return lost[id] })
	if _, err = s.Sweep(ctx, live(some), SweepOptions{}); err != nil {
		t.Fatal(err)
	}
	if v, err := s.Verify(ctx, VerifyOptions{Data: 100}); err != nil || len(v.Damage) > 0 {
		t.Errorf("%+v, %v", v, err)
	}
}

// Packs whose tables cannot be read, and packs that are gone.
func TestPacksLost(t *testing.T) {
	ctx := context.Background()
	for name, lose := range map[string]func(name string) error{
		"gone":      os.Remove,
		"truncated": func(name string) error { return os.Truncate(name, 5000) },
		"empty":     func(name string) error { return os.Truncate(name, 0) },
		"garbage":   func(name string) error { return os.WriteFile(name, bytes.Repeat([]byte("no pack "), 3000), 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t, Config{})
			m := model{}
			_, first := put(t, s, m, 0, 300)
			put(t, s, m, 300, 400)
			if err := lose(packPath(s.dir, first.Packs[0])); err != nil {
				t.Fatal(err)
			}
			if lost := m.salvage(t, s); len(lost) != 300 {
				t.Errorf("%d chunks are lost", len(lost))
			}
			v, err := s.Verify(ctx, VerifyOptions{Data: 100})
			if err != nil || (len(v.Damage) == 0) != (name == "gone") {
				t.Fatalf("%+v, %v", v, err)
			}
			l, _ := live(m.ids())(ctx)
			c, err := s.Census(ctx, l)
			if err != nil || c.Groups[0].Lost != 300 {
				t.Fatalf("%+v, %v", c, err)
			}
			if err := s.NoteLost(true); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Sweep(ctx, live(m.ids()), SweepOptions{}); err != nil {
				t.Fatal(err)
			}
			if _, err := os.Stat(packPath(s.dir, first.Packs[0])); (err != nil) != (name == "gone") {
				t.Errorf("after a sweep, the pack with what is lost: %v", err)
			}
			// A snapshot that has them heals, though this process knew the pack.
			w, err := s.NewWriter(ctx)
			if err != nil {
				t.Fatal(err)
			}
			lacks, n := w.Lacks(), 0
			for id := range m {
				if lacks(id) {
					n++
				}
			}
			w.Close()
			if name != "gone" && n != 300 {
				t.Errorf("a writer lacks %d chunks", n)
			}
			dir := s.Dir()
			s.Close()
			s = openStore(t, dir)
			putModel(t, s, m, 300)
			m.check(t, s, nil)
			if _, err := s.Sweep(ctx, live(m.ids()), SweepOptions{}); err != nil {
				t.Fatal(err)
			}
			if v, err = s.Verify(ctx, VerifyOptions{Data: 100}); err != nil || len(v.Damage) > 0 || s.damage.known() {
				t.Errorf("in the end: %+v, %v", v, err)
			}
			m.check(t, s, nil)
		})
	}
}

// What is in damaged/ can make nothing worse, whoever wrote it.
func TestHostileMarks(t *testing.T) {
	ctx := context.Background()
	s := newStore(t, Config{})
	m := model{}
	ids, w := put(t, s, m, 0, 300)
	dir := s.Dir()
	s.Close()
	damaged := filepath.Join(dir, damagedName)
	every := &mark{found: time.Now()}
	for slot := range uint32(maxSlots) {
		every.slots = append(every.slots, slot)
	}
	whole := &mark{found: time.Now(), whole: true}
	pack, other := w.Packs[0].String(), PackID{1}.String()
	for name, files := range map[string]map[string][]byte{
		"nonsense":        {pack: []byte("what"), "x": nil, ".tmp-1": []byte("half")},
		"another version": {pack: append([]byte(markMagic), 9, 0, 0, 0)},
		"cut":             {pack: every.encode()[:100]},
		"whole":           {pack: whole.encode(), other: whole.encode()},
		"every slot":      {pack: every.encode(), other: every.encode(), noPack.String(): whole.encode()},
	} {
		os.RemoveAll(damaged)
		if err := os.Mkdir(damaged, 0o700); err != nil {
			t.Fatal(err)
		}
		for file, b := range files {
			if err := os.WriteFile(filepath.Join(damaged, file), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		s := openStore(t, dir)
		m.check(t, s, nil)
		if _, err := s.Sweep(ctx, live(ids), SweepOptions{}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		m.check(t, s, nil)
		put(t, s, model{}, 0, 300)
		if _, err := s.Sweep(ctx, live(ids), SweepOptions{}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		m.check(t, s, nil)
		if v, err := s.Verify(ctx, VerifyOptions{Data: 100}); err != nil || len(v.Damage) > 0 {
			t.Errorf("%s: %+v, %v", name, v, err)
		}
		s.Close()
	}
	// A directory that cannot be one: nothing is remembered, and verify says so.
	os.RemoveAll(damaged)
	if err := os.WriteFile(damaged, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s = openStore(t, dir)
	packs, _ := s.listPacks(ctx)
	for id := range packs {
		spoil(t, s, id, 0)
	}
	v, err := s.Verify(ctx, VerifyOptions{Data: 100})
	if err != nil || len(v.Damage) == 0 || v.Unnoted == nil {
		t.Errorf("%+v, %v", v, err)
	}
	if _, w := put(t, s, model{}, 0, 300); w.Chunks == 0 {
		t.Error("this process forgot what it found")
	}
}

// Where one copy of a chunk is damaged, a fetch takes the other, whichever comes first.
func TestOtherCopy(t *testing.T) {
	s := newStore(t, Config{})
	m := model{}
	_, first := put(t, s, m, 0, 300)
	// A copy in a pack of its own, as two hosts make.
	name := packPath(s.dir, first.Packs[0])
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	os.Remove(name)
	dir := s.Dir()
	s.Close()
	s = openStore(t, dir)
	_, second := put(t, s, m, 0, 300)
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
	for frame := range 8 {
		spoil(t, s, []PackID{first.Packs[0], second.Packs[0]}[frame%2], frame)
	}
	m.check(t, s, nil)
	m.check(t, s, first.Packs)
	m.check(t, s, second.Packs)
}

// A single flipped bit of a frame costs nothing: it is told, read right, and gone after a sweep.
func TestFlippedBit(t *testing.T) {
	ctx := context.Background()
	rng := rand.New(rand.NewPCG(9, 9))
	for range 200 {
		b := make([]byte, 1+rng.IntN(70000))
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		sound, sum := bytes.Clone(b), checksum(b)
		b[rng.IntN(len(b))] ^= 1 << rng.IntN(8)
		if !repairBit(b, sum) || !bytes.Equal(b, sound) {
			t.Fatal("a flipped bit was not found")
		}
	}
	for _, codec := range []string{"lz4", "zstd"} {
		s := newStore(t, Config{Compression: codec})
		m := model{}
		ids, w := put(t, s, m, 0, 500)
		table, err := s.loadTable(w.Packs[0])
		if err != nil {
			t.Fatal(err)
		}
		name := packPath(s.dir, w.Packs[0])
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range table.frames {
			b[f.offset+rng.Int64N(int64(f.stored))] ^= 1 << rng.IntN(8)
		}
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
		m.check(t, s, nil)
		v, err := s.Verify(ctx, VerifyOptions{Data: 100})
		if err != nil || len(v.Damage) != len(table.frames) || len(v.Damage[0].Chunks) != 0 {
			t.Errorf("%d of %d frames are damaged, %v", len(v.Damage), len(table.frames), err)
		}
		l, _ := live(ids)(ctx)
		if c, err := s.Census(ctx, l); err != nil || c.Groups[0].Lacks != 0 {
			t.Errorf("%+v, %v", c, err)
		}
		putModel(t, s, m, 0)
		if _, err := s.Sweep(ctx, live(ids), SweepOptions{}); err != nil {
			t.Fatal(err)
		}
		if v, err := s.Verify(ctx, VerifyOptions{Data: 100}); err != nil || len(v.Damage) != 0 {
			t.Errorf("after the sweep: %+v, %v", v, err)
		}
		m.check(t, s, nil)
	}
}

func TestMark(t *testing.T) {
	for _, m := range []*mark{
		{found: time.Unix(0, 1), slots: []uint32{}},
		{found: time.Unix(0, 1<<60), slots: []uint32{0, 1, 77, maxSlots - 1}},
		{found: time.Unix(0, -5), slots: []uint32{}, whole: true},
	} {
		got, err := decodeMark(m.encode())
		if err != nil || !got.equal(m) || !got.found.Equal(m.found) {
			t.Errorf("%+v came back as %+v, %v", m, got, err)
		}
		set := spoiled{PackID{}: m.set()}
		for slot := range maxSlots {
			if want := m.whole || slices.Contains(m.slots, uint32(slot)); set.has(&PackID{}, slot) != want || m.has(slot) != want {
				t.Fatalf("%+v: slot %d", m, slot)
			}
		}
		b := m.encode()
		for bit := range len(b) * 8 {
			c := bytes.Clone(b)
			c[bit/8] ^= 1 << (bit % 8)
			if got, err := decodeMark(c); err == nil {
				t.Fatalf("with bit %d flipped, %+v", bit, got)
			}
		}
	}
}

func FuzzMark(f *testing.F) {
	f.Add((&mark{slots: []uint32{1, 2, 70}}).encode())
	f.Add((&mark{whole: true}).encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, b := range [][]byte{b, appendSum(b)} {
			if m, err := decodeMark(b); err == nil && !bytes.Equal(m.encode(), b) {
				t.Error("a mark that decodes encodes to something else")
			}
		}
	})
}

// appendSum puts a right checksum in the place of the last four bytes.
func appendSum(b []byte) []byte {
	b = bytes.Clone(b[:max(0, len(b)-4)])
	sum := checksum(b)
	return append(b, byte(sum), byte(sum>>8), byte(sum>>16), byte(sum>>24))
}
