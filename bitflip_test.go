package arcstore

import (
	"bytes"
	"context"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/arcboxlabs/arcstore/capture"
)

// tiny is a small store, and what its snapshots must restore to.
type tiny struct {
	dir   string
	files map[string][]byte            // of the store, by path in it, when all was sound
	want  map[string]map[string][]byte // snapshot ID → stream → bytes
	vms   map[string]*VM               // that the snapshots were taken of
}

// newTiny makes a store of three snapshots: two of one guest, with a page that is changed, one that is zeroed and pages
// that are shared, and one of another.
func newTiny(t testing.TB, opts *InitOptions) *tiny {
	t.Helper()
	s := &tiny{dir: filepath.Join(t.TempDir(), "store"), files: map[string][]byte{}, want: map[string]map[string][]byte{}, vms: map[string]*VM{}}
	if err := Init(s.dir, opts); err != nil {
		t.Fatal(err)
	}
	m := openManager(t, s.dir)
	pages := func(names ...string) []byte {
		var b []byte
		for _, name := range names {
			page := make([]byte, 4096)
			if name == "noise" {
				rng := rand.NewChaCha8([32]byte{})
				rng.Read(page[:1024])
			} else if name != "" {
				copy(page, bytes.Repeat([]byte(name+" "), 100))
			}
			b = append(b, page...)
		}
		return b[:len(b)-100]
	}
	take := func(target string, memory []byte, opts *CreateOptions) string {
		state := []byte("registers of " + target)
		vm := &VM{Memory: capture.Bytes(memory), State: map[string]Source{"vmstate": capture.Bytes(state)}}
		e := create(t, m, target, vm, opts)
		s.want[e.ID] = map[string][]byte{"memory": memory, "vmstate": state}
		s.vms[e.ID] = vm
		return e.ID
	}
	first := take("a", pages("one", "", "two", "noise", "four", "five"), nil)
	take("a", pages("one", "", "TWO", "noise", "", "five"), &CreateOptions{Parent: first})
	take("b", pages("one", "b", "", "bb"), nil)
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	// Without an index, and without the directories that hold nothing, all is quicker.
	if err := os.RemoveAll(filepath.Join(s.dir, "index")); err != nil {
		t.Fatal(err)
	}
	for _, dir := range glob(t, filepath.Join(s.dir, "packs", "*")) {
		os.Remove(dir)
	}
	err := filepath.WalkDir(s.dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || d.Name() == "lock" {
			return err
		}
		rel, _ := filepath.Rel(s.dir, name)
		s.files[rel], err = os.ReadFile(name)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func glob(t testing.TB, pattern string) []string {
	t.Helper()
	names, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// reset makes the store as it was.
func (s *tiny) reset(t testing.TB) {
	t.Helper()
	for _, name := range []string{"damaged", "verified", "index"} {
		if err := os.RemoveAll(filepath.Join(s.dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range slices.Concat(glob(t, filepath.Join(s.dir, "*", "*", "*")), glob(t, filepath.Join(s.dir, "snapshots", "*"))) {
		if rel, _ := filepath.Rel(s.dir, name); s.files[rel] == nil {
			if err := os.Remove(name); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, b := range s.files {
		s.write(t, name, b)
	}
}

func (s *tiny) write(t testing.TB, name string, b []byte) {
	t.Helper()
	path := filepath.Join(s.dir, name)
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, b) {
		return
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// broken restores every snapshot and returns those that cannot be. No other byte ever comes back than went in, and no other error.
func (s *tiny) broken(t *testing.T, m *Manager) map[string]bool {
	t.Helper()
	broken := make(map[string]bool)
	for id, streams := range s.want {
		for name, want := range streams {
			var out bytes.Buffer
			report, err := m.RestoreStream(context.Background(), id, name, &out, nil)
			switch {
			case err != nil && !IsCorrupt(err):
				t.Errorf("restore %s of %s: %v", name, id, err)
			case err != nil:
				broken[id] = true
				if !bytes.HasPrefix(want, out.Bytes()) {
					t.Errorf("restore %s of %s gave other bytes before it failed", name, id)
				}
			case !bytes.Equal(out.Bytes(), want) || len(report.Missing) > 0:
				t.Errorf("restore %s of %s gave other bytes", name, id)
			}
		}
	}
	return broken
}

// salvage restores a damaged snapshot as far as it goes: what is not named as missing is right.
func (s *tiny) salvage(t *testing.T, m *Manager, id string) (missing int64) {
	t.Helper()
	for name, want := range s.want[id] {
		var out bytes.Buffer
		report, err := m.RestoreStream(context.Background(), id, name, &out, &RestoreOptions{AllowDamaged: true})
		if err != nil {
			if !IsCorrupt(err) {
				t.Errorf("salvage %s of %s: %v", name, id, err)
			}
			return -1
		}
		want = bytes.Clone(want)
		for _, r := range report.Missing {
			if r.Stream != name || r.Length <= 0 || r.Offset+r.Length > int64(len(want)) || r.Why == "" {
				t.Fatalf("salvage %s of %s: missing is %+v", name, id, r)
			}
			clear(want[r.Offset : r.Offset+r.Length])
			missing += r.Length
		}
		if !bytes.Equal(out.Bytes(), want) {
			t.Errorf("salvage %s of %s gave other bytes", name, id)
		}
	}
	return missing
}

// Every bit of a store, flipped, now and then with another: the file is named, and just those snapshots that need it; nothing wrong is ever read;
// all others restore; the damaged ones do as far as it goes; and taking a snapshot again heals.
func TestEveryBit(t *testing.T) {
	t.Run("plain", func(t *testing.T) { everyBit(t, nil, 100) })
	t.Run("encrypted", func(t *testing.T) { everyBit(t, &InitOptions{Secret: testSecret()}, 500) })
}

func everyBit(t *testing.T, opts *InitOptions, stride int) {
	ctx := context.Background()
	s := newTiny(t, opts)
	seed := rand.Uint64()
	if v := os.Getenv("ARCSTORE_TEST_SEED"); v != "" {
		seed, _ = strconv.ParseUint(v, 10, 64)
	}
	rng := rand.New(rand.NewPCG(seed, 1))
	healed := 20
	if testing.Short() {
		stride *= 2
	}
	if os.Getenv("ARCSTORE_TEST_LONG") != "" {
		stride, healed = 1, 200
	}
	bits, flips, heals, mended := 0, 0, 0, 0
	for _, name := range slices.Sorted(maps.Keys(s.files)) {
		sound := s.files[name]
		bits += len(sound) * 8
		for bit := rng.IntN(stride); bit < len(sound)*8; bit += 1 + rng.IntN(2*stride-1) {
			// A frame is mended where one bit is flipped; so now and then it is two.
			for flipped := range 1 + rng.IntN(3)/2 {
				b := bytes.Clone(sound)
				for i := range flipped + 1 {
					b[bit/8] ^= 1 << ((bit + 3*i) % 8)
				}
				s.write(t, name, b)
				flips++
				broken := s.flipped(t, name)
				if len(broken) == 0 && strings.HasPrefix(name, "packs") {
					mended++
				}
				if !t.Failed() && rng.IntN(healed) == 0 {
					heals++
					s.heal(t, ctx, name, broken)
				}
				if t.Failed() {
					t.Fatalf("bit %d of byte %d of %s, and %d more (ARCSTORE_TEST_SEED=%d)", bit%8, bit/8, name, flipped, seed)
				}
				s.reset(t)
			}
		}
	}
	t.Logf("%d of %d bits in %d files flipped, %d of them in packs without a loss, %d times healed; ARCSTORE_TEST_SEED=%d",
		flips, bits, len(s.files), mended, heals, seed)
}

// flipped checks a store with damage in one file and returns the snapshots that it breaks.
func (s *tiny) flipped(t *testing.T, name string) map[string]bool {
	t.Helper()
	ctx := context.Background()
	m, err := Open(ctx, s.dir, &Options{ReadOnly: true, Secret: knownSecret})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	broken := s.broken(t, m)
	report, err := m.Verify(ctx, &VerifyOptions{Data: true})
	if err != nil {
		t.Fatal(err)
	}
	named, affected := false, make(map[string]bool)
	for _, d := range report.Damage {
		what := d.What
		if dir, digest := filepath.Split(what); dir == "packs/" || dir == "manifests/" {
			what = filepath.Join(dir, digest[:2], digest)
		}
		named = named || what == name
		for _, id := range d.Snapshots {
			affected[id] = true
		}
	}
	if !named {
		t.Errorf("verify names %+v", report.Damage)
	}
	if !maps.Equal(affected, broken) {
		t.Errorf("verify says that it affects %v, but %v are broken", affected, broken)
	}
	if report.Unnoted != "" {
		t.Error(report.Unnoted)
	}
	for id := range broken {
		if missing := s.salvage(t, m, id); missing == 0 {
			t.Errorf("nothing of %s is missing, but it is broken", id)
		} else if strings.HasPrefix(name, "packs") && missing < 0 {
			t.Errorf("nothing of %s could be had", id)
		}
	}
	list, err := m.List(ctx, "")
	if err != nil || len(list) != len(s.want) {
		t.Errorf("list has %d, %v", len(list), err)
	}
	for _, e := range list {
		if want := map[bool]string{true: "invalid", false: "ready"}[broken[e.ID]]; string(e.State) != want {
			t.Errorf("%s is listed as %s, not %s", e.ID, e.State, want)
		}
	}
	return broken
}

// heal collects garbage, which may make nothing worse, and takes the snapshots again.
func (s *tiny) heal(t *testing.T, ctx context.Context, name string, broken map[string]bool) {
	t.Helper()
	m := openManager(t, s.dir)
	defer m.Close()
	if _, err := m.GC(ctx, nil); err != nil {
		t.Fatalf("gc: %v", err)
	}
	if now := s.broken(t, m); !maps.Equal(now, broken) {
		t.Fatalf("broken were %v, after gc %v", broken, now)
	}
	for id, vm := range s.vms {
		opts := &CreateOptions{}
		if !strings.HasPrefix(name, "manifests") && !strings.HasPrefix(name, "snapshots") {
			opts = &CreateOptions{Parent: id, Dirty: make([]byte, 1), CleanSample: -1}
		}
		e := create(t, m, "again", vm, opts)
		s.want[e.ID] = s.want[id]
	}
	defer maps.DeleteFunc(s.want, func(id string, _ map[string][]byte) bool { return s.vms[id] == nil })
	now := s.broken(t, m)
	if strings.HasPrefix(name, "packs") && len(now) > 0 || !maps.Equal(now, broken) && len(now) > 0 {
		t.Errorf("broken were %v, after taking them again %v", broken, now)
	}
	// Those for which there is no help are deleted.
	for id := range now {
		if _, err := m.Delete(ctx, id); err != nil {
			t.Error(err)
		}
	}
	if _, err := m.GC(ctx, nil); err != nil {
		t.Fatalf("gc: %v", err)
	}
	report, err := m.Verify(ctx, &VerifyOptions{Data: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range report.Damage {
		// A page table that newer ones outweigh stays for as long as they need the rest of its file.
		if len(d.Snapshots) > 0 || !strings.HasPrefix(d.What, "manifests/") || strings.Contains(d.Why, "header") {
			t.Errorf("after gc: %+v", d)
		}
	}
}
