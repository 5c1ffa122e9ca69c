package criu

import "golang.org/x/sys/unix"

// kernelRelease returns what uname -r does, or "".
func kernelRelease() string {
	var name unix.Utsname
	if unix.Uname(&name) != nil {
		return ""
	}
	return unix.ByteSliceToString(name.Release[:])
}
