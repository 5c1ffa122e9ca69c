package restore

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/arcboxlabs/arcstore/manifest"
	"github.com/arcboxlabs/arcstore/restore/uffd"
)

// MemoryOptions are the choices of ServeMemory.
type MemoryOptions struct {
	// Threads is how many faults are answered at once; 0 is 8.
	Threads int
	// Process is a pidfd of the VMM: where it dies, the service ends. It stays the caller's. Where it is nil, that is noticed with the next page.
	Process *os.File
	// WorkingSet returns what is loaded before the guest asks for it; nil for nothing.
	WorkingSet func(ctx context.Context) *manifest.WorkingSet
	// FillRate is how many bytes a second of all that the guest did not ask for are loaded, from FillAfter on. When all is there, the guest
	// goes on without the service. 0 is nothing, a negative rate has no bound.
	FillRate  int64
	FillAfter time.Duration
	// IsDamage tells errors that say that what is stored is damaged. All others end the service; so do these, where it is nil.
	IsDamage func(error) bool
	// Damaged is told of pages that cannot be had since they are damaged: who touches them gets SIGBUS.
	Damaged func(offset int64, err error)
}

// Memory is the memory of a guest that runs, and is loaded as the guest touches it.
type Memory struct {
	fd      int
	regions []MappedRegion // by address
	pages   *Pages
	opts    MemoryOptions

	// removes is held for writing while an event is read that says that pages are freed, and noted: what is put in place
	// under the lock for reading is so either before they are freed, or after it is known.
	removes sync.RWMutex
	removed bits // pages that the guest gave back: zeros from now on
	present bits // pages that need not be put in place anymore
	huge    sync.Pool
	ahead   []along // of what is loaded before it is asked for; of the goroutine that does so

	mu       sync.Mutex
	late     []uint64 // faults that were read along with other events
	touched  []uint32 // pages, in the order in which the guest asked for them
	noted    bits     // of these
	stops    int      // eventfd
	more     int      // eventfd: how many are in late
	rush     chan struct{}
	rushOnce sync.Once

	ctx     context.Context
	cancel  context.CancelFunc
	work    sync.WaitGroup
	threads sync.WaitGroup
	endOnce sync.Once
	err     error
	done    chan struct{}

	faults, loaded, prefetched, gaveBack, poisoned atomic.Int64
}

// ServeMemory answers faults on a userfaultfd with the pages of a stream, until ctx is done, the guest's process is gone, or all
// is there. It takes the descriptor over, and makes it nonblocking. The regions must be registered with it, for missing pages, and together
// be the whole stream.
func ServeMemory(ctx context.Context, fault *os.File, regions []MappedRegion, pages *Pages, opts MemoryOptions) (*Memory, error) {
	regions, err := checkRegions(regions, pages.Size())
	if err != nil {
		fault.Close()
		return nil, err
	}
	m := &Memory{regions: regions, pages: pages, opts: opts, removed: newBits(pages.Size()), present: newBits(pages.Size()), noted: newBits(pages.Size()),
		rush: make(chan struct{}), done: make(chan struct{}), stops: -1, more: -1}
	m.huge.New = func() any { return new([hugePage]byte) }
	m.fd, err = unix.FcntlInt(fault.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	fault.Close()
	if err != nil {
		return nil, fmt.Errorf("restore: %w", err)
	}
	m.ctx, m.cancel = context.WithCancel(ctx)
	if err := m.start(); err != nil {
		m.cancel()
		m.threads.Wait()
		m.closeAll()
		return nil, fmt.Errorf("restore: %w", err)
	}
	return m, nil
}

// hugePage is the size of the only huge pages that guests have here, in bytes.
const hugePage = 2 << 20

// checkRegions returns regions by address, if they are the whole stream and nothing twice.
func checkRegions(regions []MappedRegion, size int64) ([]MappedRegion, error) {
	bad := func(format string, args ...any) ([]MappedRegion, error) {
		return nil, fmt.Errorf("restore: %w: %s", ErrRegions, fmt.Sprintf(format, args...))
	}
	if len(regions) == 0 {
		return bad("there are none")
	}
	for _, r := range regions {
		switch {
		case r.PageSize != pageSize && r.PageSize != hugePage:
			return bad("pages of %d bytes are not known, only of 4 KiB and 2 MiB", r.PageSize)
		case r.Size <= 0 || r.Size%r.PageSize != 0 || r.Address%uint64(r.PageSize) != 0 || r.Offset%pageSize != 0 || r.Address+uint64(r.Size) < r.Address:
			return bad("the one at %#x, of %d bytes at offset %d, is not made of whole pages of %d bytes", r.Address, r.Size, r.Offset, r.PageSize)
		case r.Offset < 0 || r.Offset > size || r.Size > size-r.Offset:
			return bad("the one at %#x is bytes %d to %d of the memory, and the snapshot's has %d", r.Address, r.Offset, r.Offset+r.Size, size)
		}
	}
	regions = slices.Clone(regions)
	slices.SortFunc(regions, func(a, b MappedRegion) int { return cmp.Compare(a.Offset, b.Offset) })
	at := int64(0)
	for _, r := range regions {
		if r.Offset != at {
			return bad("bytes %d to %d of the memory are in none of them, or in two", min(at, r.Offset), max(at, r.Offset))
		}
		at += r.Size
	}
	if at != size {
		return bad("they are %d bytes, and the snapshot's memory has %d", at, size)
	}
	slices.SortFunc(regions, func(a, b MappedRegion) int { return cmp.Compare(a.Address, b.Address) })
	for i := 1; i < len(regions); i++ {
		if regions[i].Address-regions[i-1].Address < uint64(regions[i-1].Size) {
			return bad("two of them lie at %#x", regions[i].Address)
		}
	}
	return regions, nil
}

// start starts what answers faults, and what loads ahead.
func (m *Memory) start() error {
	if err := unix.SetNonblock(m.fd, true); err != nil {
		return err
	}
	var err error
	if m.stops, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return err
	}
	if m.more, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK|unix.EFD_SEMAPHORE); err != nil {
		return err
	}
	for range cmp.Or(m.opts.Threads, 8) {
		t, err := m.newThread()
		if err != nil {
			m.stop()
			return err
		}
		m.threads.Go(t.run)
	}
	context.AfterFunc(m.ctx, m.stop)
	m.work.Go(m.loadAhead)
	go func() {
		m.threads.Wait()
		m.cancel()
		m.work.Wait()
		m.closeAll()
		close(m.done)
	}()
	return nil
}

// stop has the threads stop.
func (m *Memory) stop() { unix.Write(m.stops, []byte{1, 0, 0, 0, 0, 0, 0, 0}) }

func (m *Memory) closeAll() {
	for _, fd := range []int{m.fd, m.stops, m.more} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

// end ends the service; nil where there is nothing left to do for the guest.
func (m *Memory) end(err error) {
	m.endOnce.Do(func() {
		m.err = err
		m.cancel()
	})
}

// Done is closed when the service has ended.
func (m *Memory) Done() <-chan struct{} { return m.done }

// Wait waits for the service to end. The error is nil if the guest does not need it anymore: it is gone, or all is there.
func (m *Memory) Wait() error {
	<-m.done
	m.end(m.ctx.Err()) // it was told to stop, unless it ended before
	return m.err
}

// Complete loads all that is missing, as fast as it can, and lets the guest go on without the service, which ends then.
func (m *Memory) Complete(ctx context.Context) error {
	m.rushOnce.Do(func() { close(m.rush) })
	select {
	case <-m.done:
		return m.Wait()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Stats returns what was done so far.
func (m *Memory) Stats() MemoryStats {
	return MemoryStats{Faults: m.faults.Load(), Loaded: m.loaded.Load(), Prefetched: m.prefetched.Load(), Removed: m.gaveBack.Load(), Poisoned: m.poisoned.Load()}
}

// Touched returns the pages that the guest asked for so far, in that order.
func (m *Memory) Touched() []uint32 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.touched)
}

// region returns the region that holds an address; nil for none.
func (m *Memory) region(address uint64) *MappedRegion {
	for i := range m.regions {
		if r := &m.regions[i]; address-r.Address < uint64(r.Size) {
			return r
		}
	}
	return nil
}

// at returns where in the VMM a byte of the stream is.
func (r *MappedRegion) at(offset int64) uint64 { return r.Address + uint64(offset-r.Offset) }

// forget notes that pages of the VMM are about to be freed; the caller holds removes.
func (m *Memory) forget(e *uffd.Event) {
	for i := range m.regions {
		r := &m.regions[i]
		from, end := max(e.Address, r.Address), min(e.End, r.Address+uint64(r.Size))
		if from >= end {
			continue
		}
		page, count := (r.Offset+int64(from-r.Address))/pageSize, int64(end-from)/pageSize
		if e.Kind == uffd.Unmap {
			m.present.set(page, count) // nobody will want them
			continue
		}
		m.gaveBack.Add(count)
		m.removed.set(page, count)
		m.present.clear(page, count)
	}
}
