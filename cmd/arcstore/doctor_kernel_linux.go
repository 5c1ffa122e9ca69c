package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

func checkPrivileges(context.Context) (finding, error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return finding{}, fmt.Errorf("capabilities: %w", err)
	}
	return judgePrivileges(os.Geteuid(), uint64(data[1].Effective)<<32|uint64(data[0].Effective)), nil
}

// judgePrivileges tells what CRIU can do with a user ID and a set of effective capabilities.
func judgePrivileges(uid int, capabilities uint64) finding {
	has := func(capability int) bool { return capabilities>>capability&1 != 0 }
	who := fmt.Sprintf("user %d", uid)
	if uid == 0 {
		who = "root"
	}
	switch {
	case uid == 0 && has(unix.CAP_SYS_ADMIN):
		return finding{Status: statusOK, Found: "root"}
	case has(unix.CAP_SYS_ADMIN), has(unix.CAP_CHECKPOINT_RESTORE):
		return finding{statusLimited, who + ", with rights to checkpoint and restore", "run arcstore as root with all capabilities: CRIU dumps only simple processes without"}
	case uid == 0:
		return finding{statusMissing, "root without CAP_SYS_ADMIN", "give this container CAP_SYS_ADMIN, or run arcstore outside of it"}
	}
	return finding{statusMissing, who, "run arcstore as root (sudo), or give it and CRIU CAP_CHECKPOINT_RESTORE for processes of this user"}
}

const (
	clearSoftDirty = "4"     // what clear_refs takes to forget which pages were written, proc(5)
	softDirtyBit   = 1 << 55 // of a page's entry in pagemap
	pagemapEntry   = 8       // bytes
)

// checkSoftDirty finds out whether the kernel notes which pages a process
// writes, with a page of this one.
func checkSoftDirty(context.Context) (finding, error) {
	advice := "use a kernel with CONFIG_MEM_SOFT_DIRTY; without, there are no pre-dumps: a container stands still while all of its memory is saved"
	page, err := unix.Mmap(-1, 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return finding{}, fmt.Errorf("map a page: %w", err)
	}
	defer unix.Munmap(page)
	page[0] = 1
	if err := os.WriteFile("/proc/self/clear_refs", []byte(clearSoftDirty), 0); err != nil {
		return finding{statusMissing, problem(err), advice}, nil
	}
	before, err := softDirty(page)
	if err != nil {
		return finding{statusMissing, problem(err), advice}, nil
	}
	page[0] = 2
	after, err := softDirty(page)
	switch {
	case err != nil:
		return finding{statusMissing, problem(err), advice}, nil
	case before || !after:
		return finding{statusMissing, "the kernel does not track which pages are written", advice}, nil
	}
	return finding{Status: statusOK, Found: "the kernel tracks which pages are written"}, nil
}

// softDirty reports whether a page of this process was written since that was last forgotten.
func softDirty(page []byte) (bool, error) {
	f, err := os.Open("/proc/self/pagemap")
	if err != nil {
		return false, err
	}
	defer f.Close()
	var entry [pagemapEntry]byte
	number := uintptr(unsafe.Pointer(&page[0])) / uintptr(os.Getpagesize())
	if _, err := f.ReadAt(entry[:], int64(number)*pagemapEntry); err != nil {
		return false, err
	}
	return binary.NativeEndian.Uint64(entry[:])&softDirtyBit != 0, nil
}

const (
	userfaultfdNew = 0xAA00 // the ioctl USERFAULTFD_IOC_NEW, linux/userfaultfd.h
	userModeOnly   = 1      // the flag UFFD_USER_MODE_ONLY
	uffdPath       = "/dev/userfaultfd"
	uffdSetting    = "/proc/sys/vm/unprivileged_userfaultfd"
)

// checkUserfaultfd opens a userfaultfd in every way there is.
func checkUserfaultfd(context.Context) (finding, error) {
	var ways []string
	if openUserfaultfdDevice() == nil {
		ways = append(ways, uffdPath)
	}
	callErr := openUserfaultfd(0)
	if callErr == nil {
		ways = append(ways, "the system call")
	}
	setting := ""
	if b, err := os.ReadFile(uffdSetting); err == nil {
		setting = ", vm.unprivileged_userfaultfd is " + strings.TrimSpace(string(b))
	}
	switch {
	case len(ways) > 0:
		return finding{Status: statusOK, Found: strings.Join(ways, " and ") + " opened one" + setting}, nil
	case openUserfaultfd(userModeOnly) == nil:
		return finding{statusLimited, "only for faults in user mode" + setting,
			"run as root, or give this user " + uffdPath + "; without, system calls and KVM must not touch memory that is not there yet"}, nil
	case errors.Is(callErr, unix.ENOSYS):
		return finding{statusMissing, "the kernel has none", "use a kernel with CONFIG_USERFAULTFD"}, nil
	}
	return finding{statusMissing, problem(callErr) + setting, "run as root, or give this user " + uffdPath}, nil
}

func openUserfaultfdDevice() error {
	device, err := unix.Open(uffdPath, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(device)
	return closeAtOnce(unix.Syscall(unix.SYS_IOCTL, uintptr(device), userfaultfdNew, unix.O_CLOEXEC))
}

func openUserfaultfd(flags uintptr) error {
	return closeAtOnce(unix.Syscall(unix.SYS_USERFAULTFD, unix.O_CLOEXEC|flags, 0, 0))
}

// closeAtOnce closes the descriptor that a system call returned, if it did.
func closeAtOnce(fd, _ uintptr, errno unix.Errno) error {
	if errno != 0 {
		return os.NewSyscallError("userfaultfd", errno)
	}
	return unix.Close(int(fd))
}
