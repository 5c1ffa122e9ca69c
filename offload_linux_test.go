package arcstore

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
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/arcboxlabs/arcstore/bench/cloudhypervisor"
)

// newCloudVM makes a guest whose memory lies as Cloud Hypervisor has it: pieces below and above the hole for devices in one file, and one more of virtio-mem.
func newCloudVM(t *testing.T, seed uint64) (*cloudhypervisor.VM, *rand.Rand) {
	t.Helper()
	vm, err := cloudhypervisor.NewVM([]cloudhypervisor.Region{
		{Slot: 7, GPA: 4 << 30, Size: 2 << 20, Zone: "mem0", FileOffset: 3 << 20},
		{Slot: 2, GPA: 0, Size: 3 << 20, Zone: "mem0"},
		{Slot: 3, GPA: 8 << 30, Size: 1<<20 + 8<<10, Zone: "hot", VirtioMem: true},
	}, fmt.Sprintf("devices of %d", seed))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(vm.Close)
	rng := rand.New(rand.NewPCG(seed, 0))
	for i := range vm.Regions {
		r := &vm.Regions[i]
		for off := uint64(0); off < r.Size; off += cloudhypervisor.PageSize {
			if rng.IntN(3) > 0 { // the others stay holes
				writeCloudPage(t, vm, r, off, rng)
			}
		}
	}
	return vm, rng
}

// writeCloudPage writes random bytes, text, or, once in a while, zeros that are no hole.
func writeCloudPage(t *testing.T, vm *cloudhypervisor.VM, r *cloudhypervisor.Region, off uint64, rng *rand.Rand) {
	t.Helper()
	b := make([]byte, cloudhypervisor.PageSize)
	switch rng.IntN(8) {
	case 0:
	case 1, 2, 3:
		copy(b, strings.Repeat(fmt.Sprintf("%d at %d; ", rng.Uint32(), off), 200))
	default:
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
	}
	if err := vm.Write(r, off, b); err != nil {
		t.Fatal(err)
	}
}

func cloudMemory(t *testing.T, vm *cloudhypervisor.VM) []byte {
	t.Helper()
	b, err := vm.Memory()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// offered is the result of an offload create.
type offered struct {
	s   *Snapshot
	err error
}

// takeOffer has m wait for a guest at a new socket.
func takeOffer(t *testing.T, m *Manager, req CreateRequest) (socket string, result chan offered) {
	t.Helper()
	socket = filepath.Join(socketDir(t), "take")
	req.Offload = &Offload{Socket: socket}
	ready := make(chan struct{})
	result = make(chan offered, 1)
	go func() {
		s, err := m.Create(t.Context(), &req, &Events{Note: func(string) { close(ready) }})
		result <- offered{s, err}
	}()
	select {
	case <-ready:
	case o := <-result:
		t.Fatal(o.err)
	}
	return socket, result
}

// socketDir is a directory whose path is short enough for sockets.
func socketDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ch")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func offer(t *testing.T, m *Manager, vm *cloudhypervisor.VM, opts *cloudhypervisor.SendOptions) *Snapshot {
	t.Helper()
	socket, result := takeOffer(t, m, CreateRequest{Target: "vm"})
	if err := vm.Send(t.Context(), socket, opts); err != nil {
		t.Fatal(err)
	}
	o := <-result
	if o.err != nil {
		t.Fatal(o.err)
	}
	if _, err := os.Lstat(socket); !os.IsNotExist(err) {
		t.Errorf("the socket is still there: %v", err)
	}
	return o.s
}

// checkCloudStored compares the streams of a snapshot with what was offered.
func checkCloudStored(t *testing.T, m *Manager, id string, vm *cloudhypervisor.VM, memory []byte) {
	t.Helper()
	for stream, want := range map[string][]byte{"memory": memory, "cloud-hypervisor/migration_config.json": vm.Config, "cloud-hypervisor/state.json": vm.State} {
		var b bytes.Buffer
		if _, err := m.RestoreStream(t.Context(), id, stream, &b, nil); err != nil || !bytes.Equal(b.Bytes(), want) {
			t.Errorf("the stream %s differs: %v", stream, err)
		}
	}
	r, err := m.OpenSnapshot(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	about, err := r.Machine(t.Context())
	if err != nil || !slices.Equal(about.Regions, []Region{{Size: 3 << 20}, {GuestAddress: 4 << 30, Size: 2 << 20, Offset: 3 << 20},
		{GuestAddress: 8 << 30, Size: 1<<20 + 8<<10, Offset: 5 << 20}}) {
		t.Errorf("its memory lies at %+v: %v", about, err)
	}
}

// A guest is taken three times, the first two snapshots are deleted, and the last one comes back: as a whole, on demand, and as a directory.
func TestOffload(t *testing.T) {
	ctx := t.Context()
	m := newManager(t, nil)
	vm, rng := newCloudVM(t, 1)
	first := offer(t, m, vm, nil)
	want := cloudMemory(t, vm)
	checkCloudStored(t, m, first.ID, vm, want)
	if first.Host == nil || first.Host.VMM != "cloud-hypervisor" {
		t.Errorf("its host is %+v", first.Host)
	}
	for range 10 {
		r := &vm.Regions[rng.IntN(len(vm.Regions))]
		writeCloudPage(t, vm, r, rng.Uint64N(r.Size/cloudhypervisor.PageSize)*cloudhypervisor.PageSize, rng)
	}
	second := offer(t, m, vm, &cloudhypervisor.SendOptions{Running: true, Before: func(command uint16, c *net.UnixConn) error {
		if command == cloudhypervisor.CmdState { // until now it ran
			writeCloudPage(t, vm, &vm.Regions[0], 0, rng)
		}
		return nil
	}})
	if second.Parent != first.ID || second.Cost.ChunksNew > 11 {
		t.Errorf("its parent is %q, %d chunks are new", second.Parent, second.Cost.ChunksNew)
	}
	want = cloudMemory(t, vm)
	checkCloudStored(t, m, second.ID, vm, want)
	third := offer(t, m, vm, nil)
	if third.Cost.ChunksNew != 0 {
		t.Errorf("%d chunks are new where nothing changed", third.Cost.ChunksNew)
	}
	if _, err := m.Delete(ctx, first.ID, second.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := m.GC(ctx, nil); err != nil {
		t.Fatal(err)
	}
	t.Run("whole", func(t *testing.T) {
		g := handOver(t, m, third.ID, OffloadOptions{}, cloudhypervisor.ReceiveOptions{})
		if g.Resumed {
			t.Error("the guest runs, and was to stay paused")
		}
		checkCloud(t, vm, g, want)
		for i := range g.Regions { // what was a hole is one again
			r := &g.Regions[i]
			var st unix.Stat_t
			if err := unix.Fstat(int(g.File(r).Fd()), &st); err != nil || uint64(st.Blocks)*512 > r.Size*3/4 {
				t.Errorf("slot %d occupies %d of %d bytes: %v", r.Slot, st.Blocks*512, r.Size, err)
			}
		}
	})
	t.Run("on demand", func(t *testing.T) { testOffloadOnDemand(t, m, third.ID, vm, want) })
	t.Run("directory", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "out")
		if _, err := m.ExportCloudHypervisor(ctx, third.ID, dir, nil); err != nil {
			t.Fatal(err)
		}
		names, err := os.ReadDir(dir)
		if err != nil || len(names) != 3 {
			t.Fatalf("%v, %v", names, err)
		}
		if b, err := os.ReadFile(filepath.Join(dir, "memory-ranges")); err != nil || !bytes.Equal(b, want) {
			t.Errorf("memory-ranges differs: %v", err)
		}
		if b, err := os.ReadFile(filepath.Join(dir, "config.json")); err != nil || !bytes.Contains(vm.Config, b) || b[0] != '{' {
			t.Errorf("config.json: %s, %v", b, err)
		}
		again, err := m.Create(ctx, &CreateRequest{Target: "vm", CloudHypervisor: dir}, nil)
		if err != nil || again.Cost.BytesNew > cloudhypervisor.PageSize {
			t.Fatalf("%+v, %v", again, err)
		}
		if _, err := m.RestoreOffload(ctx, again.ID, filepath.Join(dir, "s"), nil); !errors.Is(err, ErrOtherKind) {
			t.Errorf("handing over what is a directory's: %v", err)
		}
	})
}

// handOver restores a snapshot to a Cloud Hypervisor, both of which must work.
func handOver(t *testing.T, m *Manager, id string, opts OffloadOptions, as cloudhypervisor.ReceiveOptions) *cloudhypervisor.Received {
	t.Helper()
	g, result := receive(t, m, id, opts, as)
	if g == nil {
		t.Fatal((<-result).err)
	}
	if opts.OnDemand {
		t.Cleanup(func() {
			g.Close()
			if r := <-result; r.err != nil {
				t.Error(r.err)
			}
		})
		return g
	}
	t.Cleanup(g.Close)
	r := <-result
	if r.err != nil || r.report.BytesServed != r.report.Bytes || r.report.Paused == 0 {
		t.Fatalf("%+v, %v", r.report, r.err)
	}
	return g
}

type handed struct {
	report *OffloadReport
	err    error
}

// receive restores a snapshot to a Cloud Hypervisor; there is no guest where either fails.
func receive(t *testing.T, m *Manager, id string, opts OffloadOptions, as cloudhypervisor.ReceiveOptions) (*cloudhypervisor.Received, chan handed) {
	t.Helper()
	socket := filepath.Join(socketDir(t), "give")
	result := make(chan handed, 1)
	opts.Wait = 10 * time.Second
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute) // the guest ends after the test
	go func() {                                                           // before anybody listens
		defer cancel()
		report, err := m.RestoreOffload(ctx, id, socket, &opts)
		result <- handed{report, err}
	}()
	l, err := cloudhypervisor.Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	g, err := l.Receive(as)
	if errors.Is(err, cloudhypervisor.ErrNoUserfault) {
		t.Skip(err)
	}
	if err != nil {
		t.Log(err)
		return nil, result
	}
	return g, result
}

// checkCloud compares all of a guest that came back.
func checkCloud(t *testing.T, vm *cloudhypervisor.VM, g *cloudhypervisor.Received, want []byte) {
	t.Helper()
	if !bytes.Equal(g.Config, vm.Config) || !bytes.Equal(g.State, vm.State) {
		t.Error("its configuration or its state is another one")
	}
	var b []byte
	eachCloudPage(g, func(r *cloudhypervisor.Region, off uint64, at int) {
		if off == 0 {
			var err error
			if b, err = g.Contents(r); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(b[off:][:cloudhypervisor.PageSize], want[at:][:cloudhypervisor.PageSize]) {
			t.Fatalf("the page at %#x differs", r.GPA+off)
		}
	})
}

// eachCloudPage calls f for each page of a guest, with its region, and where it is in the whole memory.
func eachCloudPage(g *cloudhypervisor.Received, f func(r *cloudhypervisor.Region, off uint64, at int)) {
	regions := slices.Clone(g.Regions)
	slices.SortFunc(regions, func(a, b cloudhypervisor.Region) int { return int(int64(a.GPA) - int64(b.GPA)) })
	at := 0
	for i := range regions {
		for off := uint64(0); off < regions[i].Size; off += cloudhypervisor.PageSize {
			f(&regions[i], off, at)
			at += cloudhypervisor.PageSize
		}
	}
}

// testOffloadOnDemand runs vCPUs that read and write at random while Cloud Hypervisor fetches the rest, or does not.
func testOffloadOnDemand(t *testing.T, m *Manager, id string, vm *cloudhypervisor.VM, want []byte) {
	for _, prefault := range []bool{true, false} {
		t.Run(fmt.Sprintf("prefault %v", prefault), func(t *testing.T) {
			as := cloudhypervisor.ReceiveOptions{Postcopy: true, NoPrefault: !prefault}
			if !prefault {
				// Something asks before it runs, as the restore of devices does.
				as.Touch = []uint64{8 << 30}
			}
			g := handOver(t, m, id, OffloadOptions{OnDemand: true, Resume: true}, as)
			if !g.Resumed || !bytes.Equal(g.Config, vm.Config) || !bytes.Equal(g.State, vm.State) {
				t.Error("it does not run, or its configuration or state is another one")
			}
			type page struct {
				gpa uint64
				at  int
			}
			var pages []page
			eachCloudPage(g, func(r *cloudhypervisor.Region, off uint64, at int) { pages = append(pages, page{r.GPA + off, at}) })
			rand.Shuffle(len(pages), func(i, j int) { pages[i], pages[j] = pages[j], pages[i] })
			const vcpus = 4
			var all sync.WaitGroup
			for n := range vcpus {
				all.Go(func() {
					cpu, err := g.NewVCPU()
					if err != nil {
						t.Error(err)
						return
					}
					defer cpu.Close()
					b, mine := make([]byte, cloudhypervisor.PageSize), bytes.Repeat([]byte{byte(n), 0xA5}, cloudhypervisor.PageSize/2)
					for i, p := range pages {
						if err := cpu.Read(p.gpa, b); err != nil {
							t.Errorf("the page at %#x: %v", p.gpa, err)
							return
						}
						if i%vcpus != n {
							continue // another one writes to it
						}
						if !bytes.Equal(b, want[p.at:][:len(b)]) {
							t.Errorf("the page at %#x differs", p.gpa)
							return
						}
						if i%16 != n {
							continue
						}
						// What the guest writes stays, whatever the kernel takes away and asks for again.
						if err := errors.Join(cpu.Write(p.gpa, mine), cpu.Forget(p.gpa), cpu.Read(p.gpa, b)); err != nil || !bytes.Equal(b, mine) {
							t.Errorf("the page at %#x is not as it was written: %v", p.gpa, err)
							return
						}
					}
				})
			}
			all.Wait()
			if t.Failed() {
				return
			}
			if prefault {
				if err := g.Wait(); err != nil {
					t.Error(err)
				}
			} else if n := g.Asked(pages[0].gpa); n < 2 {
				t.Errorf("the page that was taken away was asked for %d times", n)
			}
		})
	}
}
