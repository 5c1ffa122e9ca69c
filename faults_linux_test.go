package arcstore_test

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/arcboxlabs/arcstore"
	"github.com/arcboxlabs/arcstore/bench/vmm"
	"github.com/arcboxlabs/arcstore/restore/uffd"
)

// lazyGuest is a snapshot of a memory, and a socket where it is served.
type lazyGuest struct {
	t      testing.TB
	m      *arcstore.Manager
	dir    string
	memory string // file
	size   int64
	snap   *arcstore.Snapshot
	lazy   *arcstore.LazySnapshot
}

// newLazyGuest makes a snapshot of a memory of size bytes: holes, runs of data and pages that repeat.
func newLazyGuest(t testing.TB, size int, init *arcstore.InitOptions) *lazyGuest {
	t.Helper()
	needUffd(t)
	g := &lazyGuest{t: t, dir: filepath.Join(t.TempDir(), "store"), memory: filepath.Join(t.TempDir(), "memory"), size: int64(size)}
	r := rand.New(rand.NewPCG(1, uint64(size)))
	data := make([]byte, size)
	for at := 0; at < size; {
		n := min(size-at, (1+r.IntN(40))*4096)
		switch r.IntN(4) {
		case 0: // a hole
		case 1:
			copy(data[at:at+n], bytes.Repeat([]byte{byte(r.IntN(256))}, n))
		default:
			for i := at; i < at+n; i += 16 {
				data[i], data[i+1], data[i+2] = byte(r.IntN(256)), byte(r.IntN(256)), byte(i>>12)
			}
		}
		at += n
	}
	if err := os.WriteFile(g.memory, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := arcstore.Init(g.dir, init); err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	opts := &arcstore.Options{}
	if init != nil {
		opts.Secret = func() (arcstore.Secret, error) { return init.Secret, nil }
	}
	var err error
	if g.m, err = arcstore.Open(ctx, g.dir, opts); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.m.Close() })
	g.snap, err = g.m.CreateVM(ctx, "vm", &arcstore.VM{Memory: source{data}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	g.open()
	return g
}

// open opens the snapshot for reading it as it is needed.
func (g *lazyGuest) open() {
	g.t.Helper()
	var err error
	if g.lazy, err = g.m.OpenLazy(context.Background(), g.snap.ID); err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { g.lazy.Close() })
}

type source struct{ b []byte }

func (s source) ReadAt(p []byte, off int64) (int, error) { return bytes.NewReader(s.b).ReadAt(p, off) }
func (s source) Size() int64                             { return int64(len(s.b)) }

// needUffd skips the test where there is no userfaultfd.
func needUffd(t testing.TB) {
	t.Helper()
	f, err := uffd.Open(uffd.FeatureRemove)
	if err == nil {
		f.Close()
		return
	}
	why := "userfaultfd cannot be had here: run the tests as root, or make /dev/userfaultfd readable: " + err.Error()
	if slices.Contains(strings.Split(os.Getenv("ARCSTORE_TEST_REQUIRE"), ","), "uffd") {
		t.Fatal(why)
	}
	t.Skip(why)
}

// service is the faults of a lazyGuest being served.
type service struct {
	socket string
	stop   context.CancelFunc
	kill   chan struct{}
	done   chan error

	mu       sync.Mutex
	ended    []arcstore.GuestEnded
	damaged  []int64
	warnings []error
}

func (g *lazyGuest) serve(opts arcstore.FaultOptions) *service {
	g.t.Helper()
	s := &service{socket: filepath.Join(g.t.TempDir(), "s"), kill: make(chan struct{}), done: make(chan error, 1)}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: s.socket, Net: "unix"})
	if err != nil {
		g.t.Fatal(err)
	}
	opts.Ended = func(e arcstore.GuestEnded) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.ended = append(s.ended, e)
	}
	opts.Damaged = func(offset int64, err error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.damaged = append(s.damaged, offset)
	}
	opts.Warn = func(err error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.warnings = append(s.warnings, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.stop = cancel
	go func() { s.done <- g.lazy.ServeFaults(ctx, l, &opts, s.kill) }()
	g.t.Cleanup(cancel)
	return s
}

// wait waits for the end of the service.
func (s *service) wait(t testing.TB) error {
	t.Helper()
	select {
	case err := <-s.done:
		return err
	case <-time.After(time.Minute):
		t.Fatal("the service does not end")
		return nil
	}
}

// start starts a VMM with the memory in one region, or with a gap between two.
func (g *lazyGuest) start(c vmm.Config) *vmm.VMM {
	g.t.Helper()
	v, err := g.try(c)
	if err != nil {
		g.t.Fatal(err)
	}
	return v
}

func (g *lazyGuest) try(c vmm.Config) (*vmm.VMM, error) {
	c.Memory = g.memory
	if c.PageSize == 0 {
		c.PageSize = 4096
	}
	if c.Regions == nil {
		first := g.size / 3 &^ (c.PageSize - 1)
		c.Regions = []vmm.Region{{Offset: 0, Size: first}, {Offset: first, Size: g.size - first}}
	}
	v, err := vmm.Start(context.Background(), &c)
	if err == nil {
		g.t.Cleanup(v.Kill)
	}
	return v, err
}

// do has the guest do something that must come to no wrong page.
func do(t testing.TB, v *vmm.VMM, d vmm.Do) *vmm.Done {
	t.Helper()
	done, err := v.Do(&d)
	if err != nil {
		t.Fatal(err)
	}
	if len(done.Wrong) > 0 {
		t.Fatalf("%d pages are wrong, such as %d", len(done.Wrong), done.Wrong[0])
	}
	return done
}

// pages returns all pages of the guest, in order or shuffled.
func (g *lazyGuest) pages(seed uint64) []int64 {
	all := make([]int64, g.size/4096)
	for i := range all {
		all[i] = int64(i)
	}
	if seed != 0 {
		rand.New(rand.NewPCG(seed, 1)).Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	}
	return all
}

// A process that plays Firecracker's part touches pages in order, at random, from many threads; all are what they were. It
// goes, and the service ends.
func TestFaults(t *testing.T) {
	for _, test := range []struct {
		name string
		c    vmm.Config
		init *arcstore.InitOptions
		do   vmm.Do
		seed uint64
	}{
		{name: "in order"},
		{name: "at random", seed: 7},
		{name: "written to", seed: 8, do: vmm.Do{Write: true, Threads: 2}},
		{name: "by eight threads", seed: 9, do: vmm.Do{Threads: 8}},
		{name: "all the same by eight threads", seed: 10, do: vmm.Do{Threads: 8, Race: true}},
		{name: "older Firecracker", seed: 11, c: vmm.Config{Old: true}},
		{name: "memory sent along, in pieces", seed: 12, c: vmm.Config{Memfd: true, Pieces: true}},
		{name: "chunks of 64 KiB", seed: 13, init: &arcstore.InitOptions{ChunkSize: 64 << 10}, do: vmm.Do{Threads: 4}},
		{name: "zstd", seed: 14, init: &arcstore.InitOptions{Compression: "zstd"}, do: vmm.Do{Threads: 4}},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := newLazyGuest(t, 24<<20+5*4096, test.init)
			s := g.serve(arcstore.FaultOptions{Record: time.Minute})
			c := test.c
			c.Socket = s.socket
			v := g.start(c)
			test.do.Touch = g.pages(test.seed)
			do(t, v, test.do)
			if err := v.Close(); err != nil {
				t.Error(err)
			}
			if err := s.wait(t); err != nil {
				t.Error(err)
			}
			if len(s.ended) != 1 || s.ended[0].Stats.Faults == 0 || s.ended[0].Stats.Loaded != g.size/4096 || len(s.warnings) > 0 {
				t.Errorf("%+v %v", s.ended, s.warnings)
			}
		})
	}
}

// What the guest gives back reads as zeros afterwards, also while it is being loaded by others.
func TestFaultsFree(t *testing.T) {
	g := newLazyGuest(t, 16<<20, nil)
	s := g.serve(arcstore.FaultOptions{FillRate: -1, FillAfter: time.Hour})
	v := g.start(vmm.Config{Socket: s.socket})
	all := g.pages(3)
	do(t, v, vmm.Do{Touch: all[:500], Write: true})
	do(t, v, vmm.Do{Free: all[:1500]})
	do(t, v, vmm.Do{Touch: all[:2000], Threads: 4})
	do(t, v, vmm.Do{Unmap: all[2500:2600]})
	do(t, v, vmm.Do{Touch: all[2000:], Threads: 4})
	s.stop() // it goes on without us
	if err := s.wait(t); err != nil {
		t.Fatal(err)
	}
	do(t, v, vmm.Do{Touch: all, Threads: 2})
	do(t, v, vmm.Do{Free: all[1500:2000]})
	if st := s.ended[0].Stats; st.Removed != 1500 {
		t.Errorf("%+v", st)
	}
}

// While one thread gives pages back, others touch and the rest is loaded.
func TestFaultsFreeRace(t *testing.T) {
	g := newLazyGuest(t, 32<<20, nil)
	for seed := range uint64(4) {
		s := g.serve(arcstore.FaultOptions{FillRate: 100 << 20})
		v := g.start(vmm.Config{Socket: s.socket})
		all := g.pages(seed + 20)
		for part := range slices.Chunk(all, 256) {
			do(t, v, vmm.Do{Touch: part[:64], Threads: 4, Free: part[32:128]})
		}
		do(t, v, vmm.Do{Touch: all, Threads: 8})
		if err := s.wait(t); err != nil { // all is there
			t.Fatal(err)
		}
		do(t, v, vmm.Do{Touch: all})
		v.Close()
	}
}

// Complete lets a guest go on without the service, whether it touched anything or not.
func TestFaultsComplete(t *testing.T) {
	g := newLazyGuest(t, 16<<20, nil)
	s := g.serve(arcstore.FaultOptions{Complete: true})
	v := g.start(vmm.Config{Socket: s.socket})
	if err := s.wait(t); err != nil {
		t.Fatal(err)
	}
	g.lazy.Close()
	do(t, v, vmm.Do{Touch: g.pages(2), Threads: 8})
}

// The VMM dies at a random moment: the service ends.
func TestFaultsDeath(t *testing.T) {
	g := newLazyGuest(t, 16<<20, nil)
	for i := range 8 {
		s := g.serve(arcstore.FaultOptions{FillRate: 50 << 20})
		v := g.start(vmm.Config{Socket: s.socket})
		go v.Do(&vmm.Do{Touch: g.pages(4), Threads: 4})
		time.Sleep(time.Duration(i) * 3 * time.Millisecond)
		v.Kill()
		if err := s.wait(t); err != nil {
			t.Fatal(err)
		}
	}
}

// What was recorded is loaded before the next guest asks for it.
func TestWorkingSet(t *testing.T) {
	g := newLazyGuest(t, 32<<20, nil)
	all := g.pages(5)
	touched := all[:400]
	run := func(pages []int64) arcstore.GuestMemoryStats {
		s := g.serve(arcstore.FaultOptions{Record: time.Minute})
		v := g.start(vmm.Config{Socket: s.socket})
		time.Sleep(200 * time.Millisecond) // what is loaded ahead is there by now
		do(t, v, vmm.Do{Touch: pages})
		v.Close()
		if err := s.wait(t); err != nil {
			t.Fatal(err)
		}
		g.lazy.Close() // so that it is written down
		g.open()
		return s.ended[0].Stats
	}
	first, second := run(touched), run(touched)
	if first.Prefetched != 0 || first.Faults < 100 || second.Prefetched == 0 || second.Faults > 0 {
		t.Errorf("first %+v, second %+v", first, second)
	}
	// Some more are added; with another set altogether, it is recorded anew.
	if n := len(g.lazy.WorkingSet(context.Background()).Pages); n < int(first.Faults)*9/10 || n > int(first.Faults) { // a page that is touched again by a thread that got a signal faults twice
		t.Errorf("%d pages recorded, after %d faults", n, first.Faults)
	}
	more := run(all[:600])
	if again := run(all[:600]); more.Faults == 0 || again.Faults > 0 {
		t.Errorf("%+v, %+v", more, again)
	}
	other := all[1000:5000]
	run(other)
	if w := g.lazy.WorkingSet(context.Background()); w == nil || len(w.Pages) != 0 {
		t.Errorf("it was kept: %d pages", len(w.Pages))
	}
	if fresh := run(other); fresh.Prefetched != 0 {
		t.Errorf("%+v", fresh)
	}
	if after := run(other); after.Faults > 0 {
		t.Errorf("%+v", after)
	}
	// A child that was not restored yet has its parent's.
	child, err := g.m.CreateVM(context.Background(), "vm", &arcstore.VM{Memory: source{mustRead(t, g.memory)}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	parent := g.snap
	g.snap = child
	g.lazy.Close()
	g.open()
	if w := g.lazy.WorkingSet(context.Background()); w == nil || len(w.Pages) < 500 {
		t.Error("the parent's is not known")
	}
	if _, err := g.m.Delete(context.Background(), parent.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := g.m.GC(context.Background(), nil); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(filepath.Join(g.dir, "working-sets")); err != nil || len(left) != 0 {
		t.Errorf("left: %v %v", left, err)
	}
}

func mustRead(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// A VMM that hands over what cannot be served is killed, and the error says why.
func TestFaultsRefused(t *testing.T) {
	g := newLazyGuest(t, 8<<20, nil)
	for name, c := range map[string]vmm.Config{
		"too large":    {Lie: 1 << 20},
		"part missing": {Regions: []vmm.Region{{Offset: 4096, Size: 8<<20 - 4096}}},
	} {
		s := g.serve(arcstore.FaultOptions{})
		c.Socket = s.socket
		v, started := g.try(c)
		err := s.wait(t)
		if !errors.Is(err, arcstore.ErrRegions) {
			t.Errorf("%s: %v", name, err)
		}
		if started == nil && v.Wait() == nil { // it may be killed before it has said that it is there
			t.Errorf("%s: it was not killed", name)
		}
	}
	// A second one finds nobody there.
	s := g.serve(arcstore.FaultOptions{})
	if v, err := g.try(vmm.Config{Socket: s.socket, Twice: true}); err == nil {
		do(t, v, vmm.Do{Touch: g.pages(0)}) // its second message was on the way before the socket was closed: nobody read it
	} else if !strings.Contains(err.Error(), "second") {
		t.Error(err)
	}
	// Another user's.
	nobody := 12345
	s = g.serve(arcstore.FaultOptions{User: &nobody})
	g.try(vmm.Config{Socket: s.socket}) // the door may be shut before it has said anything
	time.Sleep(50 * time.Millisecond)
	s.stop()
	s.wait(t)
	if len(s.warnings) != 1 || !strings.Contains(s.warnings[0].Error(), "another user") {
		t.Error(s.warnings)
	}
	// Who connects and says nothing harms nobody.
	s = g.serve(arcstore.FaultOptions{})
	if conn, err := net.Dial("unix", s.socket); err == nil {
		conn.Close()
	}
	v := g.start(vmm.Config{Socket: s.socket})
	do(t, v, vmm.Do{Touch: g.pages(0)})
	// Told to stop at once, it kills who needs it.
	close(s.kill)
	if err := s.wait(t); err == nil || v.Wait() == nil {
		t.Error(err)
	}
}

// damage damages some frames of the memory.
func (g *lazyGuest) damage() {
	t := g.t
	t.Helper()
	packs, err := filepath.Glob(filepath.Join(g.dir, "packs", "*", "*"))
	if err != nil || len(packs) == 0 {
		t.Fatal(packs, err)
	}
	b := mustRead(t, packs[0])
	for i := len(b) / 4; i < len(b)/4+40<<10; i += 100 {
		b[i] ^= 0x5a
	}
	if err := os.Remove(packs[0]); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(packs[0], b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// Of what is damaged, a guest gets SIGBUS, and never a wrong page; the rest is there.
func TestFaultsDamage(t *testing.T) {
	g := newLazyGuest(t, 16<<20, nil)
	g.lazy.Close()
	g.damage()
	for _, complete := range []bool{false, true} {
		g.open()
		s := g.serve(arcstore.FaultOptions{Complete: complete})
		v := g.start(vmm.Config{Socket: s.socket})
		if complete {
			if err := s.wait(t); err != nil {
				t.Fatal(err)
			}
		}
		done := do(t, v, vmm.Do{Touch: g.pages(6), Threads: 4})
		if len(done.Poisoned) == 0 || len(done.Poisoned) > 1000 {
			t.Errorf("complete %t: %d pages are damaged", complete, len(done.Poisoned))
		}
		v.Close()
		if !complete {
			if err := s.wait(t); err != nil {
				t.Error(err)
			}
		}
		if len(s.damaged) < len(done.Poisoned)/2 {
			t.Errorf("told of %d of %d", len(s.damaged), len(done.Poisoned))
		}
		g.lazy.Close()
	}
}

// The snapshot is deleted and collected while a guest still needs it.
func TestFaultsDeleted(t *testing.T) {
	g := newLazyGuest(t, 32<<20, nil)
	s := g.serve(arcstore.FaultOptions{})
	v := g.start(vmm.Config{Socket: s.socket})
	all := g.pages(7)
	do(t, v, vmm.Do{Touch: all[:10]})
	time.Sleep(100 * time.Millisecond) // it holds the packs by now
	ctx := context.Background()
	if _, err := g.m.Delete(ctx, g.snap.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := g.m.GC(ctx, nil); err != nil {
		t.Fatal(err)
	}
	if packs, _ := filepath.Glob(filepath.Join(g.dir, "packs", "*", "*")); len(packs) > 0 {
		t.Fatal("the packs are still there")
	}
	do(t, v, vmm.Do{Touch: all, Threads: 4})
}

// Clones of one snapshot at once share what was decompressed.
func TestFaultsClones(t *testing.T) {
	g := newLazyGuest(t, 16<<20, nil)
	const clones = 8
	s := g.serve(arcstore.FaultOptions{Clones: clones})
	var wg sync.WaitGroup
	vmms := make([]*vmm.VMM, clones)
	for i := range vmms {
		vmms[i] = g.start(vmm.Config{Socket: s.socket})
	}
	for i, v := range vmms {
		wg.Go(func() {
			done, err := v.Do(&vmm.Do{Touch: g.pages(uint64(i % 3)), Threads: 2})
			if err != nil || len(done.Wrong) > 0 {
				t.Error(err)
			}
			v.Close()
		})
	}
	wg.Wait()
	if err := s.wait(t); err != nil || len(s.ended) != clones {
		t.Error(err, s.ended)
	}
	frames, shared := g.lazy.Frames()
	if shared < frames*clones/2 {
		t.Errorf("%d frames decompressed, %d shared", frames, shared)
	}
}
