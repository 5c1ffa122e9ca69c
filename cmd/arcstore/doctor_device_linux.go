package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// tryDevice opens a device for reading and writing and lets use have it, which may be nil.
func tryDevice(path string, use func(fd int) error) error {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	if use != nil {
		return use(fd)
	}
	return nil
}

func checkFUSE(context.Context) (finding, error) {
	helper := findProgram("fusermount3")
	err := tryDevice("/dev/fuse", nil)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return finding{statusMissing, problem(err), "run as root, or let this user read and write /dev/fuse"}, nil
	case err != nil:
		return finding{statusMissing, problem(err), "modprobe fuse, or give this container /dev/fuse"}, nil
	case os.Geteuid() != 0 && helper == "":
		return finding{statusLimited, "/dev/fuse opens, no fusermount3 in PATH", "run as root, or install fuse3 (Debian: apt-get install fuse3)"}, nil
	}
	return finding{Status: statusOK, Found: "/dev/fuse opens"}, nil
}

const kvmGetAPIVersion = 0xAE00 // the ioctl KVM_GET_API_VERSION, linux/kvm.h

func checkKVM(context.Context) (finding, error) {
	version := 0
	err := tryDevice("/dev/kvm", func(fd int) (err error) {
		version, err = unix.IoctlRetInt(fd, kvmGetAPIVersion)
		return os.NewSyscallError("KVM_GET_API_VERSION", err)
	})
	switch {
	case errors.Is(err, fs.ErrPermission):
		return finding{statusMissing, problem(err), "run as root, or add this user to the group kvm"}, nil
	case err != nil:
		return finding{statusMissing, problem(err), "turn on virtualisation in the firmware, or nested virtualisation of the host; without, QEMU emulates, some ten times slower"}, nil
	}
	return finding{Status: statusOK, Found: fmt.Sprintf("/dev/kvm opens, API version %d", version)}, nil
}
