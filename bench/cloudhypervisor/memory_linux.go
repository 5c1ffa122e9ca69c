package cloudhypervisor

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The kernel's numbers for userfaultfd (include/uapi/linux/userfaultfd.h).
const (
	uffdAPI         = 0xAA
	iocNew          = 0xAA00
	iocAPI          = 0xC018AA3F
	iocRegister     = 0xC020AA00
	iocWake         = 0x8010AA02
	iocContinue     = 0xC020AA07
	featureMissing  = 1 << 5 // of shared memory
	featureMinor    = 1 << 10
	registerMissing = 1 << 0
	registerMinor   = 1 << 2
	eventPagefault  = 0x12
	messageSize     = 32
)

// ErrNoUserfault: the kernel does not let this process handle page faults.
var ErrNoUserfault = errors.New("no userfaultfd")

// memory is that of a guest, filled by page faults that another process answers. Accesses to it are made by the kernel, on behalf of Read and Write: a
// goroutine that waits for a page in a system call keeps nobody else from running.
type memory struct {
	c        *net.UnixConn
	fd       int // of the userfaultfd
	stop     *os.File
	maps     []mapped
	ended    chan struct{}
	asking   sync.Mutex // one request at a time
	mu       sync.Mutex
	err      error // why it does not go on
	prefault bool
	asked    map[uint64]int // how often, by page address
	complete bool
}

type mapped struct {
	Region
	bytes []byte
}

// newMemory maps the guest's memory, and handles its page faults.
func newMemory(g *Received, c *net.UnixConn, prefault bool, touch []uint64) (_ *memory, err error) {
	m := &memory{c: c, fd: -1, ended: make(chan struct{}), prefault: prefault, asked: make(map[uint64]int)}
	defer func() {
		if err != nil {
			m.unmap()
			c.Close()
		}
	}()
	if m.fd, err = openUserfault(); err != nil {
		return nil, err
	}
	for _, r := range g.Regions {
		b, err := unix.Mmap(int(g.files[r.Slot].Fd()), int64(r.FileOffset), int(r.Size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		if err != nil {
			return nil, err
		}
		m.maps = append(m.maps, mapped{r, b})
		register := [4]uint64{address(b), r.Size, registerMissing | registerMinor, 0}
		if err := ioctl(m.fd, iocRegister, unsafe.Pointer(&register)); err != nil {
			return nil, fmt.Errorf("register: %w", err)
		}
	}
	stop, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, err
	}
	m.stop = os.NewFile(uintptr(stop), "stop")
	go m.run()
	g.memory = m
	for _, gpa := range touch {
		cpu, err := g.NewVCPU()
		if err != nil {
			return nil, err
		}
		defer cpu.Close()
		if err := cpu.Read(gpa, make([]byte, 1)); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func openUserfault() (int, error) {
	dev, err := os.OpenFile("/dev/userfaultfd", os.O_RDWR, 0)
	if err != nil {
		return -1, fmt.Errorf("%w: %w", ErrNoUserfault, err)
	}
	defer dev.Close()
	fd, _, errno := unix.Syscall(unix.SYS_IOCTL, dev.Fd(), iocNew, unix.O_CLOEXEC|unix.O_NONBLOCK)
	if errno != 0 {
		return -1, fmt.Errorf("%w: %w", ErrNoUserfault, errno)
	}
	api := [3]uint64{uffdAPI, featureMissing | featureMinor, 0}
	if err := ioctl(int(fd), iocAPI, unsafe.Pointer(&api)); err != nil {
		unix.Close(int(fd))
		return -1, fmt.Errorf("%w: %w", ErrNoUserfault, err)
	}
	return int(fd), nil
}

func ioctl(fd int, request uintptr, arg unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(arg)); errno != 0 {
		return errno
	}
	return nil
}

func address(b []byte) uint64 { return uint64(uintptr(unsafe.Pointer(&b[0]))) }

// run answers faults, and asks for one page after the other between.
func (m *memory) run() {
	defer close(m.ended)
	err := m.handle()
	m.mu.Lock()
	m.err = err
	m.complete = err == nil
	m.mu.Unlock()
	// Who waits for a page goes on. In a Cloud Hypervisor there is nobody any more, or nothing to wait for.
	unix.Close(m.fd)
	_ = m.c.CloseWrite()
	m.c.Close()
}

// errStopped: somebody wants no more.
var errStopped = errors.New("it was stopped")

func (m *memory) handle() error {
	region, page := 0, uint64(0)
	prefault := m.prefault
	served := make(map[uint64]bool)
	for {
		for prefault && region < len(m.maps) && page*PageSize >= m.maps[region].Size {
			region, page = region+1, 0
		}
		if prefault && region == len(m.maps) {
			return nil
		}
		timeout := -1
		if prefault {
			timeout = 0
		}
		fds := []unix.PollFd{{Fd: int32(m.fd), Events: unix.POLLIN}, {Fd: int32(m.stop.Fd()), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, timeout); errors.Is(err, unix.EINTR) {
			continue
		} else if err != nil {
			return err
		}
		if fds[1].Revents != 0 {
			return errStopped
		}
		if fds[0].Revents&unix.POLLIN != 0 {
			var b [messageSize]byte
			if _, err := unix.Read(m.fd, b[:]); errors.Is(err, unix.EAGAIN) {
				continue
			} else if err != nil {
				return err
			}
			if b[0] != eventPagefault {
				continue
			}
			at := binary.NativeEndian.Uint64(b[16:]) &^ (PageSize - 1)
			i := m.find(at)
			if i < 0 {
				return fmt.Errorf("a fault at %#x", at)
			}
			gpa := m.maps[i].GPA + at - address(m.maps[i].bytes)
			if err := m.resolve(i, gpa); err != nil {
				return err // the guest cannot go on
			}
			served[gpa] = true
			continue
		}
		if !prefault {
			continue
		}
		gpa := m.maps[region].GPA + page*PageSize
		page++
		if !served[gpa] && m.resolve(region, gpa) != nil {
			prefault = false // perhaps the guest never needs it
		}
	}
}

// find returns the region that an address of this process lies in.
func (m *memory) find(at uint64) int {
	for i := range m.maps {
		if base := address(m.maps[i].bytes); at >= base && at-base < m.maps[i].Size {
			return i
		}
	}
	return -1
}

// resolve asks for a page, and maps what is in the file then.
func (m *memory) resolve(i int, gpa uint64) error {
	if err := m.ask(gpa, PageSize); err != nil {
		return err
	}
	at := address(m.maps[i].bytes) + gpa - m.maps[i].GPA
	for {
		arg := [4]uint64{at, PageSize, 0, 0}
		err := ioctl(m.fd, iocContinue, unsafe.Pointer(&arg))
		if errors.Is(err, unix.EEXIST) {
			wake := [2]uint64{at, PageSize}
			_ = ioctl(m.fd, iocWake, unsafe.Pointer(&wake))
			err = nil
		}
		if errors.Is(err, unix.EAGAIN) {
			continue
		}
		if err != nil {
			return fmt.Errorf("map the page at %#x: %w", gpa, err)
		}
		return nil
	}
}

// ask sends a PageFault, and reads the answer.
func (m *memory) ask(gpa, length uint64) error {
	m.mu.Lock()
	m.asked[gpa]++
	m.mu.Unlock()
	m.asking.Lock()
	defer m.asking.Unlock()
	if _, err := m.c.Write(Header(CmdPageFault, 0, 16)); err != nil {
		return err
	}
	if _, err := m.c.Write(binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(nil, gpa), length)); err != nil {
		return err
	}
	return ReadAnswer(m.c)
}

// Ask asks for memory as a page fault does, without one.
func (g *Received) Ask(gpa, length uint64) error { return g.memory.ask(gpa, length) }

// close ends it.
func (m *memory) close() {
	_, _ = m.stop.Write([]byte{1, 0, 0, 0, 0, 0, 0, 0})
	_ = m.c.CloseRead() // an answer that does not come
	<-m.ended
	m.stop.Close()
	m.unmap()
}

func (m *memory) unmap() {
	for _, r := range m.maps {
		_ = unix.Munmap(r.bytes)
	}
	m.maps = nil
}

// Wait waits until the guest has all pages; an error says why it will not.
func (g *Received) Wait() error {
	<-g.memory.ended
	return g.failed()
}

func (g *Received) failed() error {
	g.memory.mu.Lock()
	defer g.memory.mu.Unlock()
	return g.memory.err
}

// Asked returns how often the page at an address was asked for.
func (g *Received) Asked(gpa uint64) int {
	g.memory.mu.Lock()
	defer g.memory.mu.Unlock()
	return g.memory.asked[gpa]
}

// VCPU accesses a guest's memory, as one goroutine.
type VCPU struct {
	g       *Received
	scratch *os.File
}

// NewVCPU returns another one.
func (g *Received) NewVCPU() (*VCPU, error) {
	fd, err := unix.MemfdCreate("scratch", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	return &VCPU{g, os.NewFile(uintptr(fd), "scratch")}, nil
}

// Close lets go of it.
func (v *VCPU) Close() { v.scratch.Close() }

func (v *VCPU) at(gpa uint64, n int) ([]byte, error) {
	for _, r := range v.g.memory.maps {
		if gpa >= r.GPA && gpa-r.GPA+uint64(n) <= r.Size {
			return r.bytes[gpa-r.GPA:][:n], nil
		}
	}
	return nil, fmt.Errorf("no memory at %#x", gpa)
}

// Read reads memory, which waits until it is there. The error of a page that could not be had is the end of the guest.
func (v *VCPU) Read(gpa uint64, b []byte) error {
	from, err := v.at(gpa, len(b))
	if err != nil {
		return err
	}
	if _, err := unix.Pwrite(int(v.scratch.Fd()), from, 0); err != nil {
		return err
	}
	if _, err := unix.Pread(int(v.scratch.Fd()), b, 0); err != nil {
		return err
	}
	return v.g.failed()
}

// Write writes memory.
func (v *VCPU) Write(gpa uint64, b []byte) error {
	to, err := v.at(gpa, len(b))
	if err != nil {
		return err
	}
	if _, err := unix.Pwrite(int(v.scratch.Fd()), b, 0); err != nil {
		return err
	}
	if _, err := unix.Pread(int(v.scratch.Fd()), to, 0); err != nil {
		return err
	}
	return v.g.failed()
}

// Forget takes a page out of this process, as the kernel does when memory is short: the file keeps it.
func (v *VCPU) Forget(gpa uint64) error {
	b, err := v.at(gpa, PageSize)
	if err != nil {
		return err
	}
	return unix.Madvise(b, unix.MADV_DONTNEED)
}
