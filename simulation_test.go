package arcstore_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/arcboxlabs/arcstore"
	"github.com/arcboxlabs/arcstore/manifest"
	"github.com/arcboxlabs/arcstore/store/disk"
)

var simulationSeed = flag.Uint64("simulation.seed", uint64(time.Now().UnixNano()), "seed of what the simulation does, but not of when")

// pagePool is how many pages there are in the simulation: so few that every
// snapshot shares most of its chunks with others, and with those just deleted.
const pagePool = 3000

// simMemory is a guest's memory: for each page its number in the pool, 0 is zero.
type simMemory []uint16

func (m simMemory) Size() int64 { return int64(len(m)) * 4096 }

func (m simMemory) ReadAt(p []byte, off int64) (int, error) {
	if off%4096 != 0 || len(p)%4096 != 0 {
		return 0, fmt.Errorf("read of %d bytes at %d", len(p), off)
	}
	for i := range len(p) / 4096 {
		at := int(off/4096) + i
		if at >= len(m) {
			return i * 4096, io.EOF
		}
		page := p[i*4096:][:4096]
		clear(page)
		if n := m[at]; n != 0 {
			binary.LittleEndian.PutUint64(page[int(n)%4088:], uint64(n)<<20)
			binary.LittleEndian.PutUint16(page[4094:], n)
		}
	}
	return len(p), nil
}

func (m simMemory) change(r *rand.Rand) simMemory {
	next := slices.Clone(m)
	for range 1 + r.IntN(12) {
		at, n, first := r.IntN(len(m)), 1+r.IntN(40), r.IntN(pagePool)
		for i := at; i < min(at+n, len(m)); i++ {
			next[i] = uint16((first + i - at) % pagePool)
		}
	}
	return next
}

// unsynced is a disk that is never told to sync: races do not wait for that, and
// the simulation gets to many times as many.
type unsynced struct{ disk.Disk }

func (unsynced) SyncDir(string) error { return nil }

func (d unsynced) Create(dir string) (disk.File, error) {
	f, err := d.Disk.Create(dir)
	return unsyncedFile{f}, err
}

type unsyncedFile struct{ disk.File }

func (unsyncedFile) Sync() error { return nil }

// errIdle is a turn in which there was nothing to do.
var errIdle = errors.New("nothing to do")

// simulation runs everything at once in one process against a model.
type simulation struct {
	t *testing.T
	m *arcstore.Manager

	mu   sync.Mutex
	live map[string]simMemory // ready, and nobody is about to delete them
	gone map[string]bool      // deleted, or about to be

	ops [8]atomic.Int64
}

const (
	simCreate = iota
	simRestore
	simDelete
	simPrune
	simGC
	simVerify
	simLook
)

// pick returns one of the live snapshots.
func (s *simulation) pick(r *rand.Rand) (string, simMemory) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.live) == 0 {
		return "", nil
	}
	skip := r.IntN(len(s.live))
	for id, m := range s.live {
		if skip--; skip < 0 {
			return id, m
		}
	}
	panic("unreachable")
}

// deleted reports whether id may be missing by now.
func (s *simulation) deleted(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.gone[id]
}

func (s *simulation) create(ctx context.Context, r *rand.Rand, target string, memory *simMemory) error {
	next := memory.change(r)
	opts := &arcstore.CreateOptions{}
	id, other := s.pick(r)
	switch r.IntN(5) {
	case 0:
		opts.Parent = arcstore.ParentNone
	case 1:
		if opts.Parent = id; id != "" && r.IntN(2) == 0 {
			next = other.change(r)
		}
	}
	e, err := s.m.CreateVM(ctx, target, &arcstore.VM{Memory: next}, opts)
	if errors.Is(err, arcstore.ErrNotFound) && opts.Parent != "" && s.deleted(opts.Parent) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("create: %w", err)
	}
	*memory = next
	s.mu.Lock()
	defer s.mu.Unlock()
	s.live[e.ID] = next
	return nil
}

// restore compares a snapshot with the model.
func (s *simulation) restore(ctx context.Context, id string, want simMemory) error {
	var got bytes.Buffer
	_, err := s.m.RestoreStream(ctx, id, manifest.MemoryStream, &got, nil)
	if errors.Is(err, arcstore.ErrNotFound) && s.deleted(id) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("restore %s: %w", id, err)
	}
	expect := make([]byte, want.Size())
	want.ReadAt(expect, 0)
	if !bytes.Equal(got.Bytes(), expect) {
		return fmt.Errorf("restore %s: wrong bytes", id)
	}
	return nil
}

// drop takes snapshots out of the model before they are deleted.
func (s *simulation) drop(ids ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range ids {
		delete(s.live, id)
		s.gone[id] = true
	}
}

func (s *simulation) delete(ctx context.Context, r *rand.Rand) error {
	id, _ := s.pick(r)
	if id == "" {
		return errIdle
	}
	s.drop(id)
	if _, err := s.m.Delete(ctx, id); err != nil && !errors.Is(err, arcstore.ErrNotFound) {
		return fmt.Errorf("delete: %w", err)
	}
	if _, err := s.m.Get(ctx, id); !errors.Is(err, arcstore.ErrNotFound) {
		return fmt.Errorf("deleted snapshot %s: %v", id, err)
	}
	return nil
}

// prune keeps the last two of a target that nobody creates anymore.
func (s *simulation) prune(ctx context.Context, target string, memory *simMemory, r *rand.Rand) error {
	for range 4 {
		if err := s.create(ctx, r, target, memory); err != nil {
			return err
		}
	}
	keep := arcstore.Retention{KeepLast: 2}
	plan, err := s.m.Prune(ctx, keep, &arcstore.PruneOptions{Target: target, DryRun: true})
	if err != nil {
		return fmt.Errorf("prune: %w", err)
	}
	for _, d := range plan.Decisions {
		if !d.Keep {
			s.drop(d.Snapshot.ID)
		}
	}
	if _, err := s.m.Prune(ctx, keep, &arcstore.PruneOptions{Target: target}); err != nil {
		return fmt.Errorf("prune: %w", err)
	}
	return nil
}

func (s *simulation) verify(ctx context.Context, data bool) error {
	report, err := s.m.Verify(ctx, &arcstore.VerifyOptions{Data: data})
	if err != nil {
		return fmt.Errorf("verify: %w", err)
	}
	for _, d := range report.Damage {
		return fmt.Errorf("verify found %s damaged, in %v: %s", d.What, d.Snapshots, d.Why)
	}
	return nil
}

// look lists, diffs and counts.
func (s *simulation) look(ctx context.Context, r *rand.Rand) error {
	if _, err := s.m.Stats(ctx); err != nil {
		return fmt.Errorf("stats: %w", err)
	}
	a, _ := s.pick(r)
	b, _ := s.pick(r)
	if a == "" || b == "" {
		return nil
	}
	if _, err := s.m.Diff(ctx, a, b); err != nil && !(errors.Is(err, arcstore.ErrNotFound) && (s.deleted(a) || s.deleted(b))) {
		return fmt.Errorf("diff: %w", err)
	}
	return nil
}

// long reports whether tests may take minutes.
func long() bool { return os.Getenv("ARCSTORE_TEST_LONG") != "" }

// TestSimulation does everything at once for a while.
func TestSimulation(t *testing.T) {
	t.Parallel()
	duration := 12 * time.Second
	if long() {
		duration = 5 * time.Minute
	}
	dir := t.TempDir() + "/store"
	secret, err := arcstore.NewKeyFile(t.TempDir() + "/key")
	if err != nil {
		t.Fatal(err)
	}
	opts := &arcstore.InitOptions{}
	if *simulationSeed%2 == 0 {
		opts.Secret = secret
	}
	if err := arcstore.Init(dir, opts); err != nil {
		t.Fatal(err)
	}
	m, err := arcstore.OpenOnDisk(t.Context(), unsynced{disk.OS}, dir, &arcstore.Options{Secret: func() (arcstore.Secret, error) { return secret, nil }})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	s := &simulation{t: t, m: m, live: make(map[string]simMemory), gone: make(map[string]bool)}
	end := time.Now().Add(duration)
	var group sync.WaitGroup
	actors := uint64(0)
	actor := func(op int, act func(ctx context.Context, r *rand.Rand) error) {
		actors++
		r := rand.New(rand.NewPCG(*simulationSeed, actors))
		group.Go(func() {
			for time.Now().Before(end) && !t.Failed() {
				err := act(t.Context(), r)
				if errors.Is(err, errIdle) {
					time.Sleep(time.Duration(r.IntN(5)) * time.Millisecond)
					continue
				}
				if err != nil {
					t.Errorf("-simulation.seed %d: %v", *simulationSeed, err)
				}
				s.ops[op].Add(1)
			}
		})
	}
	for i := range 3 {
		memory := make(simMemory, 256<<i)
		actor(simCreate, func(ctx context.Context, r *rand.Rand) error {
			return s.create(ctx, r, fmt.Sprintf("vm/%d", i), &memory)
		})
	}
	pruned := make(simMemory, 300)
	actor(simPrune, func(ctx context.Context, r *rand.Rand) error { return s.prune(ctx, "pruned", &pruned, r) })
	for range 2 {
		actor(simRestore, func(ctx context.Context, r *rand.Rand) error {
			id, memory := s.pick(r)
			if id == "" {
				return errIdle
			}
			return s.restore(ctx, id, memory)
		})
	}
	actor(simDelete, func(ctx context.Context, r *rand.Rand) error {
		s.mu.Lock()
		few := len(s.live) < 10
		s.mu.Unlock()
		if few {
			return errIdle
		}
		return s.delete(ctx, r)
	})
	actor(simGC, func(ctx context.Context, r *rand.Rand) error {
		if _, err := s.m.GC(ctx, nil); err != nil {
			return fmt.Errorf("gc: %w", err)
		}
		return nil
	})
	actor(simVerify, func(ctx context.Context, r *rand.Rand) error { return s.verify(ctx, r.IntN(2) == 0) })
	actor(simLook, s.look)
	group.Wait()
	if t.Failed() {
		return
	}
	t.Logf("%d creates, %d restores, %d deletes, %d prunes, %d gcs, %d verifications, %d looks", s.ops[simCreate].Load(), s.ops[simRestore].Load(),
		s.ops[simDelete].Load(), s.ops[simPrune].Load(), s.ops[simGC].Load(), s.ops[simVerify].Load(), s.ops[simLook].Load())
	s.end(t.Context())
}

// end compares what is left with the model.
func (s *simulation) end(ctx context.Context) {
	entries, err := s.m.List(ctx, "")
	if err != nil {
		s.t.Fatal(err)
	}
	if len(entries) != len(s.live) {
		s.t.Errorf("%d snapshots are left, the model has %d", len(entries), len(s.live))
	}
	if _, err := s.m.GC(ctx, nil); err != nil {
		s.t.Error(err)
	}
	if err := s.verify(ctx, true); err != nil {
		s.t.Error(err)
	}
	for id, memory := range s.live {
		if err := s.restore(ctx, id, memory); err != nil {
			s.t.Error(err)
		}
	}
}

// TestCreateBesideGC creates snapshots of chunks that a garbage collection
// beside it finds dead.
func TestCreateBesideGC(t *testing.T) {
	t.Parallel()
	rounds := 60
	if long() {
		rounds = 2000
	}
	dir := t.TempDir() + "/store"
	if err := arcstore.Init(dir, nil); err != nil {
		t.Fatal(err)
	}
	m, err := arcstore.OpenOnDisk(t.Context(), unsynced{disk.OS}, dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	s := &simulation{t: t, m: m, live: make(map[string]simMemory), gone: make(map[string]bool)}
	r := rand.New(rand.NewPCG(*simulationSeed, 0))
	var last string
	for round := range rounds {
		first := make(simMemory, 500).change(r)
		e, err := m.CreateVM(t.Context(), "a", &arcstore.VM{Memory: first}, &arcstore.CreateOptions{Parent: arcstore.ParentNone})
		if err != nil {
			t.Fatal(err)
		}
		ids := []string{e.ID}
		if last != "" {
			ids = append(ids, last)
		}
		if _, err := m.Delete(t.Context(), ids...); err != nil {
			t.Fatal(err)
		}
		collected := make(chan error, 1)
		go func() {
			_, err := m.GC(t.Context(), nil)
			collected <- err
		}()
		time.Sleep(time.Duration(r.IntN(4000)) * time.Microsecond)
		e, err = m.CreateVM(t.Context(), "b", &arcstore.VM{Memory: first}, &arcstore.CreateOptions{Parent: arcstore.ParentNone})
		if err := errors.Join(err, <-collected); err != nil {
			t.Fatalf("-simulation.seed %d, round %d: %v", *simulationSeed, round, err)
		}
		if err := s.restore(t.Context(), e.ID, first); err != nil {
			t.Fatalf("-simulation.seed %d, round %d: %v", *simulationSeed, round, err)
		}
		last = e.ID
	}
	if err := s.verify(t.Context(), true); err != nil {
		t.Error(err)
	}
}
