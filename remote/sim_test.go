package remote

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/zeebo/blake3"

	"github.com/arcboxlabs/arcstore/chunker"
	"github.com/arcboxlabs/arcstore/manifest"
	"github.com/arcboxlabs/arcstore/store"
)

var simSeed = flag.Uint64("sim.seed", 0, "run one schedule of the simulation")

// simGrace is the grace period of simulated collections, by clocks that are off by less.
const simGrace = time.Hour

// TestSimulation: hosts push, delete and collect at once over a network that delays, loses and reorders requests, with clocks
// that are off, and die at any time. Of what a push reported done and nobody deleted, all is there ever after.
func TestSimulation(t *testing.T) {
	if *simSeed != 0 {
		w := newWorld(*simSeed)
		w.run(t)
		t.Log("\n" + w.log.String())
		return
	}
	n := 2000
	if os.Getenv("ARCSTORE_TEST_LONG") != "" {
		n = 20000
	} else if testing.Short() {
		n = 50
	}
	first := rand.Uint64() >> 1
	var total simCount
	for i := range n {
		w := newWorld(first + uint64(i))
		w.run(t)
		total.add(w.count)
		if t.Failed() {
			t.Fatalf("seed %d (-sim.seed %d runs it again, or one like it):\n%s", w.seed, w.seed, w.log.String())
		}
	}
	t.Logf("%d schedules from seed %d: %+v", n, first, total)
	if !testing.Short() && (total.Pushed == 0 || total.Mended == 0 || total.Deleted == 0 || total.Collected == 0 || total.Died == 0 || total.Resumed == 0) {
		t.Errorf("the simulation does not reach all that it is for: %+v", total)
	}
}

// TestSimulationNotices: were S3 not what it is, and listed what is condemned, or the snapshots, late, then
// snapshots would be lost: the simulation finds out.
func TestSimulationNotices(t *testing.T) {
	for _, prefix := range []string{condemnedPrefix, snapshotsPrefix} {
		t.Run(prefix, func(t *testing.T) {
			for seed := range uint64(3000) {
				w := newWorld(seed + 1)
				w.stalePrefix = prefix
				found := &recorder{TB: t}
				w.run(found)
				if found.failed {
					t.Logf("noticed with seed %d", seed+1)
					return
				}
			}
			t.Error("nothing was lost, it seems: what the simulation does is too harmless")
		})
	}
}

// recorder notes that a test would have failed.
type recorder struct {
	testing.TB
	failed bool
}

func (r *recorder) Errorf(string, ...any) { r.failed = true }

// simCount says what happened.
type simCount struct{ Pushed, Present, Mended, Deleted, Condemned, Collected, Kept, Died, Failed, Resumed int }

func (c *simCount) add(o simCount) {
	c.Pushed += o.Pushed
	c.Present += o.Present
	c.Mended += o.Mended
	c.Deleted += o.Deleted
	c.Condemned += o.Condemned
	c.Collected += o.Collected
	c.Kept += o.Kept
	c.Died += o.Died
	c.Failed += o.Failed
	c.Resumed += o.Resumed
}

// world is one schedule: a bucket, some hosts, and what they did.
type world struct {
	seed        uint64
	rand        *rand.Rand
	bucket      *memory
	ghosts      sync.WaitGroup
	old         history
	stalePrefix string
	logMu       sync.Mutex
	log         strings.Builder

	mu     sync.Mutex
	ids    []string            // of snapshots, to be pushed by anybody
	chunks map[string][]uint32 // of each
	safe   map[string]bool     // reported done, and no deletion begun
	begun  map[string]int      // deletions,
	ended  map[string]int      // and those that are over
	// undecided says until when a deletion that was cut off may still be done.
	undecided map[string]time.Time
	count     simCount
	start     time.Time
}

func newWorld(seed uint64) *world {
	w := &world{seed: seed, rand: rand.New(rand.NewPCG(seed, 1)), bucket: newMemory(), chunks: make(map[string][]uint32),
		safe: make(map[string]bool), begun: make(map[string]int), ended: make(map[string]int), undecided: make(map[string]time.Time)}
	w.bucket.page = 1 + w.rand.IntN(6)
	w.old.times = make(map[string]time.Time)
	for i := range 4 + w.rand.IntN(4) {
		id := fmt.Sprintf("%032x", i+1)
		w.ids = append(w.ids, id)
		for c := range uint32(12) {
			if w.rand.IntN(3) == 0 {
				w.chunks[id] = append(w.chunks[id], c)
			}
		}
	}
	return w
}

func (w *world) chance(p float64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.rand.Float64() < p
}

func (w *world) below(n int) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.rand.IntN(n)
}

func (w *world) logf(format string, args ...any) {
	w.logMu.Lock()
	defer w.logMu.Unlock()
	fmt.Fprintf(&w.log, "%10s "+format+"\n", append([]any{time.Since(w.start).Round(time.Second)}, args...)...)
}

func (w *world) run(t testing.TB) {
	inner, ok := t.(*testing.T)
	if !ok {
		inner = t.(*recorder).TB.(*testing.T)
	}
	synctest.Test(inner, func(*testing.T) {
		w.start = time.Now()
		var hosts sync.WaitGroup
		var all []*host
		for i := range 2 + w.rand.IntN(3) {
			all = append(all, w.newHost(i)) // before one of them runs, which draws from w.rand, too
		}
		for _, h := range all {
			hosts.Go(h.live)
		}
		hosts.Wait()
		w.ghosts.Wait()
		// What is still condemned may go now.
		for range 3 {
			time.Sleep(3 * simGrace)
			h := &host{w: w, name: "last", bucket: w.bucket, cache: &cache{}}
			if err := h.collect(context.Background()); err != nil {
				t.Errorf("gc at the end: %v", err)
			}
		}
		w.check(t)
	})
}

// check looks at every snapshot that must be there.
func (w *world) check(t testing.TB) {
	for id := range w.safe {
		if err := w.whole(id); err != nil {
			t.Errorf("snapshot %s was lost: %v", id, err)
		}
	}
}

// whole reports whether one of the snapshot's objects has all that it needs.
func (w *world) whole(id string) error {
	err := errors.New("it is not there")
	for _, o := range w.allObjects(snapshotsPrefix + id + "/") {
		s, derr := decodeSnapshot(o, w.bucket.get(o), sealer{})
		if derr != nil {
			return derr
		}
		if err = w.complete(s); err == nil {
			return nil
		}
	}
	return err
}

func (w *world) allObjects(prefix string) []string {
	page := w.bucket.page
	w.bucket.page = 0
	defer func() { w.bucket.page = page }()
	var keys []string
	for _, o := range w.bucket.after(prefix, "") {
		keys = append(keys, o.Key)
	}
	return keys
}

func (w *world) complete(s *Snapshot) error {
	has := make(map[chunker.ID]bool)
	for _, p := range s.parts() {
		b := w.bucket.get(p.key())
		if b == nil {
			return fmt.Errorf("%s is gone", p.key())
		}
		if p.kind == packsPrefix {
			for at := simSalt; at < len(b)-1; at += chunker.IDSize {
				has[chunker.ID(b[at:])] = true
			}
		}
	}
	for _, c := range w.chunks[s.Entry.ID] {
		if !has[simChunk(c)] {
			return fmt.Errorf("chunk %d is in none of its packs", c)
		}
	}
	return nil
}

// host is one machine, which does one thing after the other.
type host struct {
	w      *world
	name   string
	bucket Bucket
	skew   time.Duration
	cache  *cache
}

func (w *world) newHost(i int) *host {
	n := &network{to: w.bucket, rand: rand.New(rand.NewPCG(w.seed, uint64(i)+100)), mu: &sync.Mutex{}, delay: 20 * time.Minute,
		late: simGrace / 2, fail: 0.03, ghost: &w.ghosts, old: &w.old}
	if w.stalePrefix != "" {
		n.stale, n.stalePrefix = 3*simGrace, w.stalePrefix
	}
	if w.rand.IntN(2) == 0 {
		n.delay = time.Minute
	}
	h := &host{w: w, name: fmt.Sprintf("host %d", i), bucket: n, cache: &cache{kept: make(map[string][]byte)}, skew: time.Duration(w.rand.Int64N(int64(simGrace)) - int64(simGrace)/2)}
	n.now = h.now
	return h
}

func (h *host) live() {
	again := "" // what a push that died was about
	for range 4 + h.w.below(8) {
		ctx, cancel := context.WithCancel(context.Background())
		died := make(chan struct{})
		if h.w.chance(0.15) {
			after := time.Duration(h.w.below(int(simGrace)))
			go func() {
				select {
				case <-time.After(after):
					cancel()
				case <-died:
				}
			}()
		}
		var err error
		id := h.w.ids[h.w.below(len(h.w.ids))]
		switch n := h.w.below(10); {
		case again != "":
			err = h.push(ctx, again)
			again = ""
		case n < 5:
			if err = h.push(ctx, id); err != nil && h.w.chance(0.5) {
				again = id
			}
		case n < 7:
			err = h.remove(ctx, id)
		default:
			err = h.collect(ctx)
		}
		h.w.mu.Lock()
		switch {
		case ctx.Err() != nil:
			h.w.count.Died++
		case err != nil:
			h.w.count.Failed++
		}
		h.w.mu.Unlock()
		if err != nil {
			h.w.logf("%s: %v", h.name, err)
		}
		close(died)
		cancel()
		if again != "" {
			continue // at once
		}
		time.Sleep(time.Duration(h.w.below(int(2 * simGrace))))
	}
}

func (h *host) now() time.Time { return time.Now().Add(h.skew) }

func (h *host) open(ctx context.Context) (*Remote, error) {
	return Open(ctx, h.bucket, &Options{
		cache:      h.cache,
		uploadLife: 2 * simGrace,
		now:        h.now,
		finder:     func(read tableReader) finder { return &simFinder{read: read} },
	})
}

func (h *host) push(ctx context.Context, id string) error {
	h.w.logf("%s: push %s", h.name, id)
	r, err := h.open(ctx)
	if err != nil {
		return err
	}
	entry := &manifest.Entry{ID: id, TargetID: "t", TargetType: manifest.VM, State: manifest.Ready, Manifest: blake3.Sum256([]byte(id))}
	h.w.mu.Lock()
	before := h.w.ended[id]
	undecided := time.Now().Before(h.w.undecided[id])
	h.w.mu.Unlock()
	done, err := r.push(ctx, h, []*manifest.Entry{entry}, nil)
	h.w.mu.Lock()
	defer h.w.mu.Unlock()
	h.w.count.Pushed += len(done.Pushed)
	h.w.count.Present += len(done.Present)
	h.w.count.Mended += done.Mended
	h.w.count.Resumed += done.Resumed
	if err == nil && h.w.begun[id] == before && !undecided { // no deletion meanwhile
		h.w.safe[id] = true
	}
	if err == nil {
		h.w.logf("%s: pushed %s: %+v", h.name, id, *done)
	}
	return err
}

// remove deletes a snapshot. One that somebody pushes meanwhile may be there afterwards or not.
// Nor is one safe that is found there while a request of a deletion which was cut off may still be under way.
func (h *host) remove(ctx context.Context, id string) (err error) {
	h.w.logf("%s: delete %s", h.name, id)
	h.w.mu.Lock()
	h.w.begun[id]++
	delete(h.w.safe, id)
	h.w.count.Deleted++
	h.w.mu.Unlock()
	defer func() {
		h.w.mu.Lock()
		h.w.ended[id]++
		if err != nil {
			h.w.undecided[id] = time.Now().Add(simGrace / 2)
		}
		h.w.mu.Unlock()
	}()
	r, err := h.open(ctx)
	if err != nil {
		return err
	}
	err = r.Delete(ctx, id)
	if errors.Is(err, ErrNoObject) {
		return nil
	}
	return err
}

func (h *host) collect(ctx context.Context) error {
	r, err := h.open(ctx)
	if err != nil {
		return err
	}
	report, err := r.GC(ctx, &GCOptions{Grace: simGrace})
	h.w.mu.Lock()
	defer h.w.mu.Unlock()
	h.w.count.Condemned += report.ObjectsCondemned
	h.w.count.Collected += report.ObjectsDeleted
	h.w.count.Kept += report.ObjectsKept
	h.w.logf("%s: gc: %+v", h.name, *report)
	return err
}

// plan implements content: the chunks that the bucket lacks, in packs of three.
func (h *host) plan(_ context.Context, e *manifest.Entry, have have) (*plan, error) {
	p := &plan{close: func() {}, manifests: []manifest.Digest{e.Manifest, blake3.Sum256([]byte("an ancestor"))}}
	var lacks []uint32
	for _, c := range h.w.chunks[e.ID] {
		id := simChunk(c)
		pack, found, err := have.Find(&id)
		if err != nil {
			return nil, err
		}
		if !found {
			lacks = append(lacks, c)
		} else if !slices.Contains(p.packs, pack) {
			p.packs = append(p.packs, pack)
		}
	}
	for part := range slices.Chunk(lacks, 3) {
		// Some packs are those that every host has: they are uploaded under the same name again and again.
		salt := uint64(part[0])
		if h.w.chance(0.5) {
			salt = uint64(h.w.below(1 << 40))
		}
		table := binary.LittleEndian.AppendUint64(nil, salt)
		for _, c := range part {
			id := simChunk(c)
			table = append(table, id[:]...)
		}
		p.packs = append(p.packs, blake3.Sum256(table))
		p.upload = append(p.upload, simSource(packsPrefix, blake3.Sum256(table), table))
	}
	for _, d := range p.manifests {
		if !have.Manifest(d) {
			p.upload = append(p.upload, simSource(manifestsPrefix, d, []byte("manifest")))
		}
	}
	return p, nil
}

const simSalt = 8

func simChunk(c uint32) chunker.ID {
	return blake3.Sum256(binary.LittleEndian.AppendUint32(nil, c))
}

func simSource(kind string, name [32]byte, b []byte) source {
	return source{kind: kind, name: name, size: int64(len(b)) + 1, table: b, open: func() (readerAtCloser, error) {
		return simBody{bytes.NewReader(append(b[:len(b):len(b)], 0))}, nil // a pack is longer than its table
	}}
}

type simBody struct{ *bytes.Reader }

func (simBody) Close() error { return nil }

// simFinder is a finder over tables as plan makes them.
type simFinder struct {
	read   tableReader
	chunks map[chunker.ID]store.PackID
}

func (f *simFinder) Set(_ context.Context, packs []store.PackID) error {
	f.chunks = make(map[chunker.ID]store.PackID)
	for _, id := range packs {
		b, _, err := f.read(id)
		if err != nil {
			return err
		}
		for at := simSalt; at < len(b); at += chunker.IDSize {
			f.chunks[chunker.ID(b[at:])] = id
		}
	}
	return nil
}

func (f *simFinder) Find(id *chunker.ID) (store.PackID, bool, error) {
	pack, ok := f.chunks[*id]
	return pack, ok, nil
}

func (f *simFinder) Close() error { return nil }
