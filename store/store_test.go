package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/arcboxlabs/arcstore/chunker"
)

// newStore makes and opens a store in a temporary directory.
func newStore(t testing.TB, c Config) *Store {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "store")
	if _, err := Init(dir, c, nil); err != nil {
		t.Fatal(err)
	}
	return openStore(t, dir)
}

func openStore(t testing.TB, dir string) *Store {
	t.Helper()
	s, err := Open(context.Background(), dir, Options{Holder: t.Name()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// page returns a page that compresses about as guest memory does; the same for the same n.
func page(n uint64, size int) []byte {
	r := rand.New(rand.NewPCG(n, 1))
	b := make([]byte, 0, size+64)
	for len(b) < size {
		b = fmt.Appendf(b, "record %d of page %d: %x; ", r.IntN(1000), n, r.Uint64())
	}
	return b[:size]
}

// model is what a store should hold.
type model map[chunker.ID][]byte

func (m model) ids() []chunker.ID {
	var ids []chunker.ID
	for id := range m {
		ids = append(ids, id)
	}
	return ids
}

// put writes pages [from, to) and returns their IDs in order.
func put(t testing.TB, s *Store, m model, from, to uint64) ([]chunker.ID, Written) {
	t.Helper()
	w, err := s.NewWriter(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	var ids []chunker.ID
	for n := from; n < to; n++ {
		b := page(n, s.config.ChunkSize)
		if n%97 == 13 {
			b = b[:n%uint64(s.config.ChunkSize-1)+1] // short chunks too
		}
		id := chunker.Sum(b)
		if err := w.Put(id, b); err != nil {
			t.Fatal(err)
		}
		m[id] = b
		ids = append(ids, id)
	}
	written, err := w.Commit()
	if err != nil {
		t.Fatal(err)
	}
	return ids, written
}

// check fetches everything in the model and compares.
func (m model) check(t testing.TB, s *Store, hints []PackID) {
	t.Helper()
	f := s.NewFetcher(hints)
	defer f.Close()
	ids := m.ids()
	var mu sync.Mutex
	seen := make([]bool, len(ids))
	err := f.Fetch(context.Background(), ids, func(i int, data []byte) error {
		mu.Lock()
		defer mu.Unlock()
		for len(data) > 0 {
			want := m[ids[i]]
			if len(data) < len(want) || !bytes.Equal(data[:len(want)], want) {
				return fmt.Errorf("chunk %d (%s) came back different", i, ids[i])
			}
			if seen[i] {
				return fmt.Errorf("chunk %d was delivered twice", i)
			}
			seen[i] = true
			data = data[len(want):]
			i++
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for i := range seen {
		if !seen[i] {
			t.Fatalf("chunk %d of %d was not delivered", i, len(seen))
		}
	}
}

// live makes the given groups the live ones.
func live(groups ...[]chunker.ID) func(context.Context) (Live, error) {
	return func(context.Context) (Live, error) {
		return Live{Groups: len(groups), Walk: func(_ context.Context, g int, visit func([]chunker.ID) error) error {
			return visit(groups[g])
		}}, nil
	}
}

func TestPutFetch(t *testing.T) {
	for _, c := range []Config{{}, {Compression: "zstd"}, {ChunkSize: 64 << 10}, {ChunkSize: 2 << 20, Compression: "zstd"}} {
		t.Run(fmt.Sprintf("%d-%s", c.ChunkSize, c.Compression), func(t *testing.T) {
			s := newStore(t, c)
			n := uint64(4000)
			if c.ChunkSize > 0 {
				n = 100
			}
			m := model{}
			_, first := put(t, s, m, 0, n)
			if first.Chunks != int64(len(m)) {
				t.Errorf("%d new chunks, want %d", first.Chunks, len(m))
			}
			_, again := put(t, s, m, n/2, n+n/4)
			if want := int64(n / 4); again.Chunks != want {
				t.Errorf("%d new chunks the second time, want %d", again.Chunks, want)
			}
			m.check(t, s, append(first.Packs, again.Packs...))
			m.check(t, s, nil)

			dir := s.Dir()
			s.Close()
			s = openStore(t, dir)
			if _, w := put(t, s, m, 0, n); w.Chunks != 0 || w.Stored != 0 {
				t.Errorf("after reopening, %d chunks and %d bytes were stored again", w.Chunks, w.Stored)
			}
			m.check(t, s, nil)
		})
	}
}

func TestIndex(t *testing.T) {
	s := newStore(t, Config{})
	m := model{}
	put(t, s, m, 0, 5000)
	if err := s.flushIndex(); err != nil {
		t.Fatal(err)
	}
	if len(s.outside) != 0 {
		t.Fatalf("%d packs are still outside the index", len(s.outside))
	}
	put(t, s, m, 5000, 6000)
	reopened := func(change func(dir string)) *Store {
		dir := s.Dir()
		s.Close()
		change(dir)
		s = openStore(t, dir)
		return s
	}
	changes := map[string]func(dir string){
		"none":              func(string) {},
		"index removed":     func(dir string) { os.RemoveAll(filepath.Join(dir, IndexDir)) },
		"summary removed":   func(dir string) { os.Remove(filepath.Join(dir, IndexDir, summaryName)) },
		"summary truncated": func(dir string) { os.Truncate(filepath.Join(dir, IndexDir, summaryName), 100) },
		"badger removed":    func(dir string) { os.RemoveAll(filepath.Join(dir, IndexDir, "badger")) },
		"badger damaged": func(dir string) {
			names, _ := filepath.Glob(filepath.Join(dir, IndexDir, "badger", "*"))
			for _, name := range names {
				os.WriteFile(name, []byte("what is this"), 0o600)
			}
		},
	}
	for name, change := range changes {
		t.Run(name, func(t *testing.T) {
			s := reopened(change)
			if _, w := put(t, s, m, 0, 6000); w.Chunks != 0 {
				t.Errorf("%d chunks were stored again", w.Chunks)
			}
			if _, err := s.Reindex(context.Background()); err != nil {
				t.Error(err)
			}
		})
	}
	m.check(t, s, nil)
}

func TestLock(t *testing.T) {
	s := newStore(t, Config{})
	_, err := Open(context.Background(), s.Dir(), Options{})
	var inUse *InUseError
	if !errors.As(err, &inUse) || !errors.Is(err, ErrInUse) || inUse.PID != os.Getpid() || inUse.Holder != t.Name() {
		t.Fatalf("opening a store in use: %v", err)
	}
	if _, err := Open(context.Background(), s.Dir(), Options{ReadOnly: true}); err != nil {
		t.Fatalf("reading needs no lock: %v", err)
	}
	s.Close()
	openStore(t, s.Dir())
}

func TestSweep(t *testing.T) {
	ctx := context.Background()
	s := newStore(t, Config{})
	all := model{}
	a, _ := put(t, s, all, 0, 6000)
	b, _ := put(t, s, all, 5000, 9000)
	c, _ := put(t, s, all, 9000, 9100)
	size := func() (n int64) {
		packs, err := s.listPacks(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, size := range packs {
			n += size
		}
		return n
	}
	full := size()

	keep := func(groups ...[]chunker.ID) model {
		m := model{}
		for _, g := range groups {
			for _, id := range g {
				m[id] = all[id]
			}
		}
		return m
	}
	report, err := s.Sweep(ctx, live(a, b, c), SweepOptions{})
	if err != nil || report.PacksDeleted != 0 || report.Live != int64(len(all)) {
		t.Fatalf("a sweep with nothing dead: %+v, %v", report, err)
	}
	// Every third page of b stays: scattered, so they are laid together.
	var some []chunker.ID
	for i := 0; i < len(b); i += 3 {
		some = append(some, b[i])
	}
	reader, err := Open(ctx, s.Dir(), Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	dry, err := reader.Sweep(ctx, live(some, c), SweepOptions{DryRun: true})
	if err != nil || size() != full {
		t.Fatalf("a dry run changed the store: %v", err)
	}
	report, err = s.Sweep(ctx, live(some, c), SweepOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if dry.PacksDeleted == 0 || report.PacksDeleted < dry.PacksDeleted {
		t.Errorf("dry run said %d packs, %d were deleted", dry.PacksDeleted, report.PacksDeleted)
	}
	want := keep(some, c)
	want.check(t, s, nil)
	if now, limit := size(), full*int64(len(want))/int64(len(all))*11/10; now > limit {
		t.Errorf("%d bytes after the sweep, want at most %d", now, limit)
	}
	if f := report.Groups[0].Fragmentation(s.config.ChunkSize); f > maxFragmentation {
		t.Errorf("fragmentation %.2f after the sweep", f)
	}
	// What was swept is new again; what was not is not.
	if _, w := put(t, s, model{}, 0, 9100); w.Chunks != int64(len(all)-len(want)) {
		t.Errorf("%d chunks were new after the sweep, want %d", w.Chunks, len(all)-len(want))
	}
	if _, err := s.Sweep(ctx, live(), SweepOptions{}); err != nil || size() != 0 {
		t.Errorf("%d bytes are left when nothing is live: %v", size(), err)
	}
}

// Short chunks that lie side by side, as the ends of streams do, are moved each as it is.
func TestSweepShortChunks(t *testing.T) {
	s := newStore(t, Config{})
	m := model{}
	w, err := s.NewWriter(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	var ids []chunker.ID
	for n := range uint64(400) {
		b := page(n, 4096)
		if n%10 > 6 {
			b = b[:n*7+1]
		}
		id := chunker.Sum(b)
		if err := w.Put(id, b); err != nil {
			t.Fatal(err)
		}
		if n < 200 { // half of the pack is dead
			m[id] = b
			ids = append(ids, id)
		}
	}
	if _, err := w.Commit(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	report, err := s.Sweep(context.Background(), live(ids), SweepOptions{})
	if err != nil || report.ChunksMoved != int64(len(ids)) {
		t.Fatalf("%+v, %v", report, err)
	}
	m.check(t, s, nil)
	v, err := s.Verify(context.Background(), VerifyOptions{Data: 100})
	if err != nil || len(v.Damage) > 0 {
		t.Fatalf("after the sweep: %+v, %v", v, err)
	}
}

// A chunk that a writer found must survive a sweep that began before the
// writer's snapshot was known.
func TestSweepBesideWriter(t *testing.T) {
	ctx := context.Background()
	s := newStore(t, Config{})
	m := model{}
	put(t, s, m, 0, 500)
	w, err := s.NewWriter(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	for id, b := range m {
		if err := w.Put(id, b); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Sweep(ctx, live(), SweepOptions{}); err != nil {
		t.Fatal(err)
	}
	if written, err := w.Commit(); err != nil || written.Chunks != 0 {
		t.Fatalf("commit: %+v, %v", written, err)
	}
	m.check(t, s, nil)
	// And the other way about: closed while the sweep runs.
	_, err = s.Sweep(ctx, func(ctx context.Context) (Live, error) {
		w.Close()
		return live()(ctx)
	}, SweepOptions{})
	if err != nil {
		t.Fatal(err)
	}
	m.check(t, s, nil)
}

func TestVerify(t *testing.T) {
	ctx := context.Background()
	s := newStore(t, Config{})
	m := model{}
	ids, w := put(t, s, m, 0, 300)
	v, err := s.Verify(ctx, VerifyOptions{Data: 100})
	if err != nil || len(v.Damage) != 0 || v.Chunks != 300 {
		t.Fatalf("sound store: %+v, %v", v, err)
	}
	path := packPath(s.dir, w.Packs[0])
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[5000] ^= 5
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	v, err = s.Verify(ctx, VerifyOptions{Data: 100})
	if err != nil || len(v.Damage) != 1 || !errors.Is(v.Damage[0].Err, ErrCorrupt) || len(v.Damage[0].Chunks) == 0 {
		t.Fatalf("two flipped bits: %+v, %v", v, err)
	}
	l, _ := live(ids[:10], ids[200:])(ctx)
	l2, _ := live(v.Damage[0].Chunks, ids[290:])(ctx)
	for _, l := range []Live{l, l2} {
		c, err := s.Census(ctx, l)
		if err != nil {
			t.Fatal(err)
		}
		groups := c.Groups
		for g := range groups {
			wantLacks := int64(0)
			l.Walk(ctx, g, func(ids []chunker.ID) error {
				for _, id := range ids {
					for _, bad := range v.Damage[0].Chunks {
						if id == bad {
							wantLacks++
						}
					}
				}
				return nil
			})
			if groups[g].Lacks != wantLacks {
				t.Errorf("group %d lacks %d chunks, want %d", g, groups[g].Lacks, wantLacks)
			}
		}
	}
	f := s.NewFetcher(nil)
	defer f.Close()
	err = f.Fetch(ctx, v.Damage[0].Chunks, func(int, []byte) error { return nil })
	var corrupt *CorruptError
	if !errors.As(err, &corrupt) {
		t.Fatalf("fetching a damaged chunk: %v", err)
	}
}
