package restore

import (
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/sys/unix"

	"github.com/arcboxlabs/arcstore/chunker"
	"github.com/arcboxlabs/arcstore/restore/uffd"
)

const (
	// around is how many chunks on each side of a wanted one are put in place with it, where they are holes like it, or came in its frame.
	around = 15
	// copyStep bounds what is put in place at once, in bytes: that long an event waits.
	copyStep = 64 << 10
)

// thread is one that answers faults.
type thread struct {
	m     *Memory
	epoll int
}

// newThread returns a thread. Of those that wait, the kernel wakes one for each fault.
func (m *Memory) newThread() (*thread, error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, err
	}
	add := func(fd int, events uint32) {
		if err == nil {
			err = unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: events, Fd: int32(fd)})
		}
	}
	add(m.stops, unix.EPOLLIN)
	add(m.fd, unix.EPOLLIN|unix.EPOLLEXCLUSIVE)
	add(m.more, unix.EPOLLIN|unix.EPOLLEXCLUSIVE)
	if m.opts.Process != nil {
		add(int(m.opts.Process.Fd()), unix.EPOLLIN|unix.EPOLLEXCLUSIVE)
	}
	if err != nil {
		unix.Close(epoll)
		return nil, err
	}
	return &thread{m, epoll}, nil
}

func (t *thread) run() {
	defer unix.Close(t.epoll)
	m := t.m
	var ready [4]unix.EpollEvent
	for {
		n, err := unix.EpollWait(t.epoll, ready[:], -1)
		if err != nil && !errors.Is(err, unix.EINTR) {
			m.end(fmt.Errorf("restore: wait for faults: %w", err))
			return
		}
		for _, e := range ready[:max(0, n)] {
			switch int(e.Fd) {
			case m.stops:
				return
			case m.fd:
				address, ok, err := m.next()
				if err != nil {
					m.fail(err)
				} else if ok {
					m.answer(address)
				}
			case m.more:
				if address, ok := m.nextLate(); ok {
					m.answer(address)
				}
			default: // the VMM is gone
				m.end(nil)
			}
		}
	}
}

// next reads one event. It returns a fault; all else it notes.
func (m *Memory) next() (address uint64, ok bool, err error) {
	var event [1]uffd.Event
	m.removes.Lock()
	defer m.removes.Unlock()
	n, err := uffd.Read(m.fd, event[:])
	if n == 0 || err != nil {
		return 0, false, err
	}
	switch e := &event[0]; e.Kind {
	case uffd.Fault:
		return e.Address, true, nil
	case uffd.Remove, uffd.Unmap:
		m.forget(e)
	}
	return 0, false, nil
}

// settle reads events until the one is read that keeps pages from being put in place. Faults, of which it reads those that were
// there before, are for another thread, after those that it knows.
func (m *Memory) settle() error {
	address, ok, err := m.next()
	if err != nil {
		return err
	}
	if !ok {
		time.Sleep(10 * time.Microsecond) // read it is, perhaps; but not over
		return nil
	}
	m.mu.Lock()
	m.late = append(m.late, address)
	m.mu.Unlock()
	_, err = unix.Write(m.more, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	return err
}

// nextLate returns the oldest fault that settle has read.
func (m *Memory) nextLate() (address uint64, ok bool) {
	var b [8]byte
	unix.Read(m.more, b[:])
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.late) == 0 {
		return 0, false
	}
	address, m.late = m.late[0], m.late[1:]
	return address, true
}

// errGone says that there is nobody left to serve.
var errGone = errors.New("gone")

// fail ends the service, without an error where the guest is gone.
func (m *Memory) fail(err error) {
	if errors.Is(err, uffd.ErrGone) || errors.Is(err, errGone) {
		err = nil
	}
	m.end(err)
}

// answer puts the page in place that was touched at an address, and what came with it.
func (m *Memory) answer(address uint64) {
	r := m.region(address)
	if r == nil {
		return // of memory that the VMM registered besides
	}
	m.faults.Add(1)
	offset := r.Offset + int64(address-r.Address)&^(r.PageSize-1)
	m.note(offset / pageSize)
	err := m.bring(r, offset, true)
	if err != nil && m.isDamage(err) {
		err = m.poison(r, offset, err)
	}
	if err != nil && m.ctx.Err() == nil {
		m.fail(err)
	}
}

// isDamage reports whether an error says that a page is damaged: trying again does not help.
func (m *Memory) isDamage(err error) bool { return m.opts.IsDamage != nil && m.opts.IsDamage(err) }

// note notes that the guest asked for a page.
func (m *Memory) note(page int64) {
	if m.noted.has(page) {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.noted.set(page, 1) > 0 {
		m.touched = append(m.touched, uint32(page))
	}
}

// bring puts the page at an offset in place, and what comes with it. wanted says that somebody waits for it.
func (m *Memory) bring(r *MappedRegion, offset int64, wanted bool) error {
	if r.PageSize > pageSize {
		return m.bringHuge(r, offset, wanted)
	}
	if m.removed.has(offset / pageSize) {
		return m.zero(r, offset, pageSize, wanted)
	}
	size := m.pages.chunkSize
	chunk := offset / size
	first := max(chunk-around, (r.Offset+size-1)/size)
	end := min(chunk+around+1, (r.Offset+r.Size)/size)
	if first > chunk || end <= chunk { // it reaches beyond the region
		first, end = chunk, chunk+1
	}
	m.pages.src.Expect(m.ctx, chunk)
	var ids [2*around + 1]chunker.ID
	if err := m.pages.t.Lookup(first, ids[:end-first]); err != nil {
		return err
	}
	i := int(chunk - first)
	if ids[i].IsHole() {
		return m.bringHoles(r, ids[:end-first], first, i, wanted)
	}
	return m.bringFrame(r, ids[:end-first], first, i, wanted)
}

// bringHoles zeroes a hole and those beside it.
func (m *Memory) bringHoles(r *MappedRegion, ids []chunker.ID, first int64, i int, wanted bool) error {
	from, end := i, i+1
	for from > 0 && ids[from-1].IsHole() {
		from--
	}
	for end < len(ids) && ids[end].IsHole() {
		end++
	}
	size := m.pages.chunkSize
	clip := func(chunk int64) int64 { return min(max(chunk*size, r.Offset), r.Offset+r.Size) }
	at, next := clip(first+int64(i)), clip(first+int64(i+1))
	if err := m.zero(r, at, next-at, wanted); err != nil {
		return err
	}
	if last := clip(first + int64(end)); last > next {
		if err := m.zero(r, next, last-next, false); err != nil {
			return err
		}
	}
	if start := clip(first + int64(from)); start < at {
		return m.zero(r, start, at-start, false)
	}
	return nil
}

// bringFrame puts a chunk in place, and then those beside it that came in its frame.
func (m *Memory) bringFrame(r *MappedRegion, ids []chunker.ID, first int64, i int, wanted bool) error {
	chunk := first + int64(i)
	f, at, err := m.pages.src.Frame(m.ctx, &ids[i], chunk)
	if err != nil {
		return err
	}
	data, err := f.Chunks(at, at+1)
	if err != nil {
		data, err = m.pages.elsewhere(m.ctx, ids[i])
	}
	if err == nil {
		err = m.putChunks(r, chunk, data, wanted)
	}
	if err != nil {
		f.Release()
		return err
	}
	a := along{r: r, f: f, chunk: chunk, at: at, end: 1}
	for i+a.end < len(ids) && at+a.end < f.Len() && *f.ID(at + a.end) == ids[i+a.end] {
		a.end++
	}
	for i+a.from > 0 && at+a.from > 0 && *f.ID(at + a.from - 1) == ids[i+a.from-1] {
		a.from--
	}
	if wanted {
		return m.putAlong(a) // who waited for the chunk goes on meanwhile
	}
	m.ahead = append(m.ahead, a)
	return nil
}

// along is what came with a chunk of the stream in its frame.
type along struct {
	r         *MappedRegion
	f         Frame
	chunk     int64
	at        int // of the frame's chunks
	from, end int // relative to it
}

// putAlong puts in place what came with a chunk, what follows it first.
func (m *Memory) putAlong(a along) error {
	defer a.f.Release()
	for _, run := range [...][2]int{{1, a.end}, {a.from, 0}} {
		first, end := run[0], run[1]
		for first < end && m.there(a.chunk+int64(first)) {
			first++
		}
		for first < end && m.there(a.chunk+int64(end-1)) {
			end--
		}
		if first >= end {
			continue
		}
		data, err := a.f.Chunks(a.at+first, a.at+end)
		if err != nil {
			continue // who asks for what is damaged will be told
		}
		if err := m.putChunks(a.r, a.chunk+int64(first), data, false); err != nil {
			return err
		}
	}
	return nil
}

// there reports whether a chunk need not be put in place.
func (m *Memory) there(chunk int64) bool {
	per := m.pages.chunkSize / pageSize
	for page := chunk * per; page < min((chunk+1)*per, m.pages.Size()/pageSize); page++ {
		if !m.present.has(page) && !m.removed.has(page) {
			return false
		}
	}
	return true
}

// putChunks puts what of chunks lies in the region in place.
func (m *Memory) putChunks(r *MappedRegion, chunk int64, data []byte, wanted bool) error {
	offset := chunk * m.pages.chunkSize
	if skip := r.Offset - offset; skip > 0 {
		data, offset = data[min(skip, int64(len(data))):], r.Offset
	}
	data = data[:min(int64(len(data)), r.Offset+r.Size-offset)]
	return m.put(r, offset, data, wanted)
}

// put puts pages in place. wanted says that somebody waits for one of them.
func (m *Memory) put(r *MappedRegion, offset int64, data []byte, wanted bool) error {
	return m.place(r, offset, int64(len(data)), wanted, func(address uint64, at, n int64) (int, error) {
		return uffd.Copy(m.fd, address, data[at:at+n])
	})
}

// zero makes pages zeros.
func (m *Memory) zero(r *MappedRegion, offset, length int64, wanted bool) error {
	return m.place(r, offset, length, wanted, func(address uint64, _, n int64) (int, error) {
		return uffd.Zero(m.fd, address, uint64(n))
	})
}

// place has put place pages of the VMM, n bytes from at on of what there is, where nobody wants them to be
// anything else by now. put is done for as many at once as may be.
func (m *Memory) place(r *MappedRegion, offset, length int64, wanted bool, put func(address uint64, at, n int64) (int, error)) error {
	step := int64(copyStep)
	for at := int64(0); at < length; {
		done, err := m.placeSome(r, offset+at, min(step, length-at), wanted, func(address uint64, n int64) (int, error) { return put(address, at, n) })
		switch {
		case err == nil:
			at += done
		case errors.Is(err, uffd.ErrBusy):
			if err := m.settle(); err != nil {
				return err
			}
			if err := m.ctx.Err(); err != nil {
				return err
			}
		case errors.Is(err, uffd.ErrUnmapped) && step > pageSize:
			step = pageSize // a part of them may be
		case errors.Is(err, uffd.ErrPresent), errors.Is(err, uffd.ErrUnmapped):
			m.present.set((offset+at)/pageSize, 1)
			if wanted {
				uffd.Wake(m.fd, r.at(offset+at), pageSize)
			}
			at += pageSize
		default:
			return err
		}
	}
	return nil
}

// placeSome places pages, at least one unless there is an error, and returns how many bytes are done.
func (m *Memory) placeSome(r *MappedRegion, offset, length int64, wanted bool, put func(address uint64, n int64) (int, error)) (int64, error) {
	page := offset / pageSize
	m.removes.RLock()
	defer m.removes.RUnlock()
	if m.removed.has(page) {
		if !wanted {
			return pageSize, nil
		}
		// It was given back, perhaps while its data was on the way.
		n, err := uffd.Zero(m.fd, r.at(offset), pageSize)
		return int64(n), err
	}
	n := int64(0)
	for n < length && !m.removed.has(page+n/pageSize) && (wanted || !m.present.has(page+n/pageSize)) {
		n += pageSize
	}
	if n == 0 {
		return pageSize, nil // it is there
	}
	done, err := put(r.at(offset), n)
	m.present.set(page, int64(done)/pageSize)
	m.loaded.Add(int64(done) / pageSize)
	return int64(done), err
}

// bringHuge puts a huge page in place.
func (m *Memory) bringHuge(r *MappedRegion, offset int64, wanted bool) error {
	page := offset / pageSize
	if !wanted && (m.present.has(page) || m.removed.has(page)) {
		return nil
	}
	b := m.huge.Get().(*[hugePage]byte)
	defer m.huge.Put(b)
	if m.removed.has(page) {
		clear(b[:])
	} else if _, err := m.pages.ReadContext(m.ctx, b[:], offset); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	for {
		err := m.copyHuge(r, offset, b)
		switch {
		case errors.Is(err, uffd.ErrBusy):
			if err := m.settle(); err != nil {
				return err
			}
			if err := m.ctx.Err(); err != nil {
				return err
			}
			continue
		case errors.Is(err, uffd.ErrPresent), errors.Is(err, uffd.ErrUnmapped):
			m.present.set(page, hugePage/pageSize)
			uffd.Wake(m.fd, r.at(offset), hugePage)
			return nil
		}
		return err
	}
}

func (m *Memory) copyHuge(r *MappedRegion, offset int64, b *[hugePage]byte) error {
	page := offset / pageSize
	m.removes.RLock()
	defer m.removes.RUnlock()
	if m.removed.has(page) {
		clear(b[:])
	}
	_, err := uffd.Copy(m.fd, r.at(offset), b[:])
	if err == nil {
		m.present.set(page, hugePage/pageSize)
		m.loaded.Add(hugePage / pageSize)
	}
	return err
}

// poison has who touches a page get SIGBUS, since what it held is damaged.
func (m *Memory) poison(r *MappedRegion, offset int64, why error) error {
	for {
		err := uffd.Poison(m.fd, r.at(offset), uint64(r.PageSize))
		switch {
		case err == nil, errors.Is(err, uffd.ErrPresent), errors.Is(err, uffd.ErrUnmapped):
			uffd.Wake(m.fd, r.at(offset), uint64(r.PageSize))
			m.poisoned.Add(r.PageSize / pageSize)
			if m.opts.Damaged != nil {
				m.opts.Damaged(offset, why)
			}
			return nil
		case errors.Is(err, uffd.ErrBusy):
			if err := m.settle(); err != nil {
				return err
			}
			if err := m.ctx.Err(); err != nil {
				return err
			}
		default:
			return why // this kernel cannot
		}
	}
}
