package uffd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Features of Open.
const (
	FeatureFork      = 1 << 1 // tell of fork
	FeatureRemap     = 1 << 2 // tell of mremap
	FeatureRemove    = 1 << 3 // tell of madvise that frees pages
	FeatureHugetlbfs = 1 << 4
	FeatureShmem     = 1 << 5
	FeatureUnmap     = 1 << 6 // tell of munmap
	FeatureThreadID  = 1 << 8
)

const (
	apiVersion = 0xaa
	modeMiss   = 1 // of a registration
)

// ioctl numbers: direction, size of the argument, type 0xaa, number.
const (
	ioctlAPI        = 3<<30 | 24<<16 | 0xaa<<8 | 0x3f
	ioctlRegister   = 3<<30 | 32<<16 | 0xaa<<8 // number 0
	ioctlUnregister = 2<<30 | 16<<16 | 0xaa<<8 | 0x01
	ioctlWake       = 2<<30 | 16<<16 | 0xaa<<8 | 0x02
	ioctlCopy       = 3<<30 | 40<<16 | 0xaa<<8 | 0x03
	ioctlZero       = 3<<30 | 32<<16 | 0xaa<<8 | 0x04
	ioctlPoison     = 3<<30 | 32<<16 | 0xaa<<8 | 0x08
	ioctlNew        = 0xaa << 8 // of /dev/userfaultfd
)

var (
	// ErrBusy: something else changes the address space; it goes on once its event was read.
	ErrBusy = errors.New("the address space is being changed")
	// ErrGone: the address space is gone.
	ErrGone = errors.New("the process is gone")
	// ErrUnmapped: the address is not mapped anymore, or not registered.
	ErrUnmapped = errors.New("the address is not registered")
	// ErrPresent: the page is there already.
	ErrPresent = errors.New("the page is there already")
)

// EventKind says what happened.
type EventKind uint8

const (
	Fault  EventKind = 0x12 // a missing page was touched, and who did so waits
	Fork   EventKind = 0x13
	Remap  EventKind = 0x14
	Remove EventKind = 0x15 // pages are about to be freed: they read as zeros then
	Unmap  EventKind = 0x16
)

// Event is one thing that happened.
type Event struct {
	Kind    EventKind
	Address uint64 // of a fault: of the page touched; else the first one
	End     uint64 // of what was removed or unmapped, the first address after it
}

const messageSize = 32

// Open makes a userfaultfd for this process, through /dev/userfaultfd where that may be opened, close-on-exec and nonblocking.
func Open(features uint64) (*os.File, error) {
	fd, err := newFD()
	if err != nil {
		return nil, fmt.Errorf("uffd: %w", err)
	}
	api := [3]uint64{apiVersion, features, 0}
	if err := ioctl(fd, ioctlAPI, unsafe.Pointer(&api)); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("uffd: the kernel lacks features %#x: %w", features, err)
	}
	return os.NewFile(uintptr(fd), "userfaultfd"), nil
}

func newFD() (int, error) {
	const flags = unix.O_CLOEXEC | unix.O_NONBLOCK
	if dev, err := os.OpenFile("/dev/userfaultfd", os.O_RDWR, 0); err == nil {
		defer dev.Close()
		fd, _, errno := unix.Syscall(unix.SYS_IOCTL, dev.Fd(), ioctlNew, flags)
		if errno == 0 {
			return int(fd), nil
		}
	}
	fd, _, errno := unix.Syscall(unix.SYS_USERFAULTFD, flags, 0, 0)
	if errno != 0 {
		return -1, errno
	}
	return int(fd), nil
}

// Is reports whether a descriptor is a userfaultfd.
func Is(fd int) bool {
	name, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	return err == nil && strings.Contains(name, "userfaultfd")
}

// Register has touched pages of a range told of that are missing.
func Register(fd int, address, length uint64) error {
	arg := [4]uint64{address, length, modeMiss, 0}
	if err := ioctl(fd, ioctlRegister, unsafe.Pointer(&arg)); err != nil {
		return fmt.Errorf("uffd: register: %w", err)
	}
	return nil
}

// Unregister ends that: pages that are missing from then on are zeros.
func Unregister(fd int, address, length uint64) error {
	arg := [2]uint64{address, length}
	return explain(ioctl(fd, ioctlUnregister, unsafe.Pointer(&arg)))
}

// Wake lets those go on who wait for pages of a range.
func Wake(fd int, address, length uint64) error {
	arg := [2]uint64{address, length}
	return explain(ioctl(fd, ioctlWake, unsafe.Pointer(&arg)))
}

// Copy puts pages where they are missing, whole ones, and wakes who waits for them. It returns how many bytes it
// put there, fewer than there are where something is in the way of the next page.
func Copy(fd int, address uint64, b []byte) (int, error) {
	arg := [5]uint64{address, uint64(uintptr(unsafe.Pointer(&b[0]))), uint64(len(b)), 0, 0}
	err := ioctl(fd, ioctlCopy, unsafe.Pointer(&arg))
	runtime.KeepAlive(b)
	return progress(int64(arg[4]), err)
}

// Zero is Copy of zeros. It does not work on huge pages.
func Zero(fd int, address, length uint64) (int, error) {
	arg := [4]uint64{address, length, 0, 0}
	err := ioctl(fd, ioctlZero, unsafe.Pointer(&arg))
	return progress(int64(arg[3]), err)
}

// Poison has who touches pages that are missing get SIGBUS. Kernels before 6.6 cannot.
func Poison(fd int, address, length uint64) error {
	arg := [4]uint64{address, length, 0, 0}
	err := ioctl(fd, ioctlPoison, unsafe.Pointer(&arg))
	_, err = progress(int64(arg[3]), err)
	return err
}

// progress returns what an ioctl did that reports it.
func progress(done int64, err error) (int, error) {
	if err == nil {
		return int(done), nil
	}
	if errors.Is(err, unix.EAGAIN) && done > 0 {
		return int(done), nil // what is in the way of the next page, the next call tells
	}
	return 0, explain(err)
}

func explain(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EAGAIN):
		return ErrBusy
	case errors.Is(err, unix.ESRCH):
		return ErrGone
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.EINVAL):
		return ErrUnmapped
	case errors.Is(err, unix.EEXIST):
		return ErrPresent
	}
	return fmt.Errorf("uffd: %w", err)
}

// Read reads what happened, as many events as there is room for; none if there are none. Faults come before all else, whichever
// was first.
func Read(fd int, events []Event) (int, error) {
	var stack [16 * messageSize]byte
	b := stack[:min(len(events)*messageSize, len(stack))]
	n, err := unix.Read(fd, b)
	switch {
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
		return 0, nil
	case errors.Is(err, unix.ESRCH):
		return 0, ErrGone
	case err != nil:
		return 0, fmt.Errorf("uffd: read: %w", err)
	}
	le := binary.LittleEndian
	count := 0
	for b = b[:n]; len(b) >= messageSize; b = b[messageSize:] {
		e := Event{Kind: EventKind(b[0])}
		switch e.Kind {
		case Fault:
			e.Address = le.Uint64(b[16:]) // after the flags
		case Remove, Unmap:
			e.Address, e.End = le.Uint64(b[8:]), le.Uint64(b[16:])
		case Fork:
			unix.Close(int(le.Uint32(b[8:]))) // the child's: nobody serves that
		}
		events[count] = e
		count++
	}
	return count, nil
}

func ioctl(fd int, request uint, arg unsafe.Pointer) error {
	for {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(request), uintptr(arg))
		if errno == unix.EINTR {
			continue
		}
		if errno != 0 {
			return errno
		}
		return nil
	}
}
