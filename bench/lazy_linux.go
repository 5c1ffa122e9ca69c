package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/arcboxlabs/arcstore"
	"github.com/arcboxlabs/arcstore/bench/vmm"
)

const (
	page      = 4096
	lazyGuest = 8 << 30
	// farApart is so many pages that touching one brings none of the others along.
	farApart = 32
	clones   = 20
	// cloneBytes is the memory of each, of which they touch a tenth.
	cloneBytes = 512 << 20
)

// lazyBench measures guests that run while their memory is loaded.
type lazyBench struct {
	*bench
	dir   string
	times times
}

// lazily runs a step.
func (b *bench) lazily(step func(*lazyBench) error) error {
	dir, err := os.MkdirTemp(b.dir, "lazy")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	return step(&lazyBench{bench: b, dir: dir, times: make(times)})
}

func (b *bench) latency() error    { return b.lazily((*lazyBench).measureLatency) }
func (b *bench) workingSet() error { return b.lazily((*lazyBench).measureWorkingSet) }
func (b *bench) clones() error     { return b.lazily((*lazyBench).measureClones) }
func (b *bench) firstPage() error  { return b.lazily((*lazyBench).measureFirstPage) }

// lazySnapshot makes a store with one snapshot of a memory.
func (l *lazyBench) lazySnapshot(name, memory string) (store string, err error) {
	m, err := l.newStore(name, "lz4")
	if err != nil {
		return "", err
	}
	if _, err := snapshot(l.ctx, m, "vm", memory, nil); err != nil {
		m.Close()
		return "", err
	}
	return filepath.Join(l.bench.dir, name), m.Close()
}

// dataPages lists the pages of a memory that are not zeros.
func dataPages(memory string) ([]int64, error) {
	f, err := os.Open(memory)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	var pages []int64
	b, zero := make([]byte, 1<<20), make([]byte, page)
	for at := int64(0); at < info.Size(); at += int64(len(b)) {
		n := min(int64(len(b)), info.Size()-at)
		if _, err := f.ReadAt(b[:n], at); err != nil {
			return nil, err
		}
		for p := int64(0); p < n; p += page {
			if !bytes.Equal(b[p:p+page], zero) {
				pages = append(pages, (at+p)/page)
			}
		}
	}
	return pages, nil
}

func shuffled(pages []int64, seed uint64) []int64 {
	out := slices.Clone(pages)
	rand.New(rand.NewPCG(seed, 0)).Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out
}

// apart returns pages that lie far from each other.
func apart(pages []int64) []int64 {
	var out []int64
	for _, p := range pages {
		if len(out) == 0 || p-out[len(out)-1] >= farApart {
			out = append(out, p)
		}
	}
	return out
}

// opener opens what snapshots are read from.
type opener func() (m *arcstore.Manager, closer func() error, err error)

// serving is a snapshot at a socket.
type serving struct {
	closer func() error
	lazy   *arcstore.LazySnapshot
	path   string
	done   chan error
	mu     sync.Mutex
	last   arcstore.GuestEnded
}

// serve opens a store, or what open opens, and serves its only snapshot.
func (l *lazyBench) serve(open opener, opts arcstore.FaultOptions) (*serving, error) {
	s := &serving{path: filepath.Join(l.dir, fmt.Sprintf("s%d", time.Now().UnixNano())), done: make(chan error, 1)}
	m, closer, err := open()
	if err != nil {
		return nil, err
	}
	s.closer = closer
	if s.lazy, err = m.OpenLazy(l.ctx, "vm@latest"); err != nil {
		return nil, err
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: s.path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	opts.Damaged = func(offset int64, err error) { fmt.Fprintf(os.Stderr, "bench: at %#x: %v\n", offset, err) }
	opts.Ended = func(e arcstore.GuestEnded) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.last = e
	}
	go func() { s.done <- s.lazy.ServeFaults(l.ctx, listener, &opts, nil) }()
	return s, nil
}

// end waits for the end of the service, whose guest is gone.
func (s *serving) end() error {
	err := <-s.done
	return errors.Join(err, s.lazy.Close(), s.closer())
}

func openOnly(ctx context.Context, store string) opener {
	return func() (*arcstore.Manager, func() error, error) {
		m, err := arcstore.Open(ctx, store, &arcstore.Options{ReadOnly: true})
		if err != nil {
			return nil, nil, err
		}
		return m, m.Close, nil
	}
}

// startVMM starts a VMM with a memory in one region.
func (l *lazyBench) startVMM(memory string, c vmm.Config) (*vmm.VMM, error) {
	info, err := os.Stat(memory)
	if err != nil {
		return nil, err
	}
	c.Memory, c.PageSize, c.Regions = memory, page, []vmm.Region{{Size: info.Size()}}
	return vmm.Start(l.ctx, &c)
}

// touchAll has a guest touch pages, all of which must be right.
func touchAll(v *vmm.VMM, d vmm.Do) (*vmm.Done, error) {
	done, err := v.Do(&d)
	if err == nil && len(done.Wrong)+len(done.Poisoned) > 0 {
		err = fmt.Errorf("%d pages are wrong, and %d are damaged", len(done.Wrong), len(done.Poisoned))
	}
	return done, err
}

// measureLatency compares how long a guest waits for a page with how long it waits for one that is copied from memory as it is.
func (l *lazyBench) measureLatency() error {
	store, err := l.lazySnapshot("lazy-latency", l.inputs[0])
	if err != nil {
		return err
	}
	all, err := dataPages(l.inputs[0])
	if err != nil {
		return err
	}
	pages := apart(all)
	var bare, served []int64
	for round := range l.rounds {
		order := shuffled(pages, uint64(round))
		v, err := l.startVMM(l.inputs[0], vmm.Config{Copies: true})
		if err != nil {
			return err
		}
		done, err := touchAll(v, vmm.Do{Touch: order, Times: true})
		if err != nil {
			return err
		}
		v.Kill()
		bare = append(bare, done.Nanos...)
		s, err := l.serve(openOnly(l.ctx, store), arcstore.FaultOptions{NoWorkingSet: true})
		if err != nil {
			return err
		}
		if v, err = l.startVMM(l.inputs[0], vmm.Config{Socket: s.path}); err != nil {
			return err
		}
		if done, err = touchAll(v, vmm.Do{Touch: order, Times: true}); err != nil {
			return err
		}
		v.Close()
		if err := s.end(); err != nil {
			return err
		}
		served = append(served, done.Nanos...)
		if got := s.last.Stats.Faults; got < int64(len(order)) {
			return fmt.Errorf("only %d of %d touches faulted", got, len(order))
		}
	}
	slices.Sort(bare)
	slices.Sort(served)
	at := func(n []int64, q float64) float64 { return float64(n[int(q*float64(len(n)-1))]) / 1000 }
	for _, q := range []struct {
		name string
		at   float64
		bar  float64
	}{{"median", 0.5, 2.5}, {"99th percentile", 0.99, 10}} {
		l.add(Result{Step: "lazy", What: "fault latency, " + q.name + ", against a bare UFFDIO_COPY", Value: at(served, q.at) / at(bare, q.at), Bar: q.bar, AtMost: true,
			Detail: map[string]float64{"served (µs)": at(served, q.at), "bare (µs)": at(bare, q.at), "faults": float64(len(served))}})
	}
	return nil
}

// measureWorkingSet compares how long a guest takes that touches a tenth of its memory, with what it touched recorded and without: from
// the local store, and from a bucket.
func (l *lazyBench) measureWorkingSet() error {
	all, err := dataPages(l.inputs[0])
	if err != nil {
		return err
	}
	pages := shuffled(all, 1)[:len(all)/10]
	store, err := l.lazySnapshot("lazy-working-set", l.inputs[0])
	if err != nil {
		return err
	}
	run := func(name string, open opener, opts arcstore.FaultOptions) error {
		s, err := l.serve(open, opts)
		if err != nil {
			return err
		}
		v, err := l.startVMM(l.inputs[0], vmm.Config{Socket: s.path, Late: true})
		if err != nil {
			return err
		}
		done, err := touchAll(v, vmm.Do{Touch: pages, Threads: 2})
		if err != nil {
			return err
		}
		v.Close()
		if err := s.end(); err != nil {
			return err
		}
		l.times[name] = append(l.times[name], float64(done.Elapsed)/1e9)
		return nil
	}
	local := openOnly(l.ctx, store)
	if err := run("recording", local, arcstore.FaultOptions{NoWorkingSet: true, Record: time.Hour}); err != nil {
		return err
	}
	for range l.rounds {
		if err := run("local, without", local, arcstore.FaultOptions{NoWorkingSet: true}); err != nil {
			return err
		}
		if err := run("local, with", local, arcstore.FaultOptions{}); err != nil {
			return err
		}
	}
	l.add(Result{Step: "lazy", What: "a tenth of the data, without / with the working set, local", Value: l.times.median("local, without") / l.times.median("local, with"),
		Detail: l.times.detail("local, without", "local, with")})
	return l.fromBucket(store, run)
}

// measureClones compares twenty guests that map one file of the mount with one, and what they have in memory with what they touched.
func (l *lazyBench) measureClones() error {
	memory := filepath.Join(l.dir, "clone")
	if err := l.tool("cp", "--sparse=always", l.inputs[0], memory); err != nil {
		return err
	}
	if err := os.Truncate(memory, cloneBytes); err != nil {
		return err
	}
	store, err := l.lazySnapshot("lazy-clones", memory)
	if err != nil {
		return err
	}
	all := make([]int64, cloneBytes/page)
	for i := range all {
		all[i] = int64(i)
	}
	pages := shuffled(all, 2)[:len(all)/10]
	resident := 0.0
	for range l.rounds {
		for name, n := range map[string]int{"one clone": 1, "twenty clones": clones} {
			got, err := l.mapped(store, memory, pages, name, n)
			if err != nil {
				return err
			}
			if n > 1 {
				resident = max(resident, got)
			}
		}
	}
	l.add(Result{Step: "lazy", What: "twenty clones through the mount: pages in memory / pages touched", Value: resident / float64(len(pages)), Bar: 1.3, AtMost: true,
		Detail: map[string]float64{"touched (MiB)": float64(len(pages)) * page / (1 << 20), "in memory (MiB)": resident * page / (1 << 20)}})
	l.add(Result{Step: "lazy", What: "twenty clones through the mount: time / one clone's", Value: l.times.median("twenty clones") / l.times.median("one clone"), Bar: 4, AtMost: true,
		Detail: l.times.detail("one clone", "twenty clones")})
	return nil
}

// mapped has n clones touch the same pages of a fresh mount at once, each in an order of its own, and returns how many pages are in memory then.
func (l *lazyBench) mapped(store, memory string, pages []int64, name string, n int) (resident float64, err error) {
	m, closer, err := openOnly(l.ctx, store)()
	if err != nil {
		return 0, err
	}
	defer closer()
	dir, err := os.MkdirTemp(l.dir, "mount")
	if err != nil {
		return 0, err
	}
	mounted, err := mountAt(m, dir)
	if err != nil {
		return 0, err
	}
	file := filepath.Join(dir, "vm", "latest", "memory")
	vmms := make([]*vmm.VMM, n)
	for i := range vmms {
		if vmms[i], err = l.startVMM(memory, vmm.Config{Map: file}); err != nil {
			return 0, errors.Join(err, mounted())
		}
	}
	var wg sync.WaitGroup
	errs := make([]error, n)
	start := time.Now()
	for i, v := range vmms {
		wg.Go(func() { _, errs[i] = touchAll(v, vmm.Do{Touch: shuffled(pages, uint64(i%2)), Times: true}) })
	}
	wg.Wait()
	l.times[name] = append(l.times[name], time.Since(start).Seconds())
	resident, rerr := residentPages(file)
	for _, v := range vmms {
		v.Close()
	}
	return resident, errors.Join(append(errs, rerr, mounted())...)
}
