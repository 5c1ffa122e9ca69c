package firecracker

import (
	"net"

	"golang.org/x/sys/unix"
)

// processOf returns the process that listens at the other end of a connection; one that is not known where the system does not tell.
func processOf(c *net.UnixConn) *Process {
	raw, err := c.SyscallConn()
	if err != nil {
		return &Process{}
	}
	var cred *unix.Ucred
	var cerr error
	err = raw.Control(func(fd uintptr) { cred, cerr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err != nil || cerr != nil {
		return &Process{}
	}
	p, err := identify(int(cred.Pid))
	if err != nil {
		p = &Process{}
	}
	p.UID, p.GID = int(cred.Uid), int(cred.Gid)
	return p
}
