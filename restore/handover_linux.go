package restore

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/arcboxlabs/arcstore/restore/uffd"
)

var (
	// ErrNoHandOver is wrapped by the error for a peer that handed nothing over: nobody waits for pages.
	ErrNoHandOver = errors.New("nothing was handed over")
	// ErrPeer is wrapped by the error for a peer that is not allowed to.
	ErrPeer = errors.New("the peer is another user's process")
)

// HandOver is the memory of a guest that a VMM handed over.
type HandOver struct {
	Fault   *os.File // the userfaultfd
	Regions []MappedRegion
	Process *os.File // pidfd of the VMM
	PID     int
}

const (
	// handOverTime is how long a VMM may take to say what it hands over.
	handOverTime = 10 * time.Second
	// maxHandOver bounds what it says, in bytes: ten thousand regions.
	maxHandOver = 1 << 20
)

// ReceiveHandOver receives what Firecracker sends to the socket that a snapshot's memory is loaded from (mem_backend with
// backend_type Uffd): one message, the regions as JSON, and the userfaultfd with it. The peer must be a process of a user for whom allowed
// holds. What the error leaves of the hand-over, whose guest waits for pages that nobody will bring, it returns too.
//
// Facts from Firecracker's src/vmm/src/persist.rs and docs/snapshotting/handling-page-faults-on-snapshot-resume.md.
func ReceiveHandOver(conn *net.UnixConn, allowed func(uid int) bool) (*HandOver, error) {
	h := &HandOver{}
	if err := h.identify(conn, allowed); err != nil {
		h.Close()
		return nil, err
	}
	conn.SetDeadline(time.Now().Add(handOverTime))
	text, err := h.receive(conn)
	if err == nil && h.Fault == nil {
		err = errors.New("there is no userfaultfd with it")
	}
	if h.Fault == nil && len(text) == 0 {
		h.Close()
		return nil, fmt.Errorf("restore: hand-over: %w", ErrNoHandOver)
	}
	if err == nil {
		h.Regions, err = parseRegions(text)
	}
	if err != nil {
		return h, fmt.Errorf("restore: hand-over of process %d: %w", h.PID, err)
	}
	return h, nil
}

// identify finds out who the peer is.
func (h *HandOver) identify(conn *net.UnixConn, allowed func(uid int) bool) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return fmt.Errorf("restore: hand-over: %w", err)
	}
	var cred *unix.Ucred
	var pidfd int
	cerr := raw.Control(func(fd uintptr) {
		if cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err != nil {
			return
		}
		if pidfd, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PEERPIDFD); err != nil { // since Linux 6.5
			pidfd, err = unix.PidfdOpen(int(cred.Pid), 0)
		}
	})
	if err := errors.Join(cerr, err); err != nil {
		return fmt.Errorf("restore: hand-over: who is it: %w", err)
	}
	h.PID, h.Process = int(cred.Pid), os.NewFile(uintptr(pidfd), "pidfd")
	if !allowed(int(cred.Uid)) {
		return fmt.Errorf("restore: hand-over: %w: process %d is that of user %d", ErrPeer, h.PID, cred.Uid)
	}
	return nil
}

// receive reads until what came is JSON as a whole: a message of many regions comes in parts.
func (h *HandOver) receive(conn *net.UnixConn) ([]byte, error) {
	var text []byte
	b := make([]byte, 64<<10)
	oob := make([]byte, unix.CmsgSpace(4*8))
	for {
		n, oobn, flags, _, err := conn.ReadMsgUnix(b, oob)
		if oobn > 0 {
			if err := h.take(oob[:oobn]); err != nil {
				return text, err
			}
		}
		text = append(text, b[:max(0, n)]...)
		switch {
		case flags&unix.MSG_CTRUNC != 0:
			return text, errors.New("more descriptors came with it than there is room for")
		case len(text) > maxHandOver:
			return text, fmt.Errorf("it is longer than %d bytes", maxHandOver)
		case len(text) > 0 && json.Valid(text):
			return text, nil
		case errors.Is(err, io.EOF) || err == nil && n == 0 && oobn == 0:
			return text, errors.New("it ends in the middle")
		case err != nil:
			return text, err
		}
	}
}

// take keeps the first userfaultfd that came, and closes what else came: some forks send the memory, too.
func (h *HandOver) take(oob []byte) error {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return err
	}
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			continue
		}
		for _, fd := range fds {
			if h.Fault == nil && uffd.Is(fd) {
				syscall.CloseOnExec(fd)
				h.Fault = os.NewFile(uintptr(fd), "userfaultfd")
			} else {
				unix.Close(fd)
			}
		}
	}
	return nil
}

// parseRegions parses regions as Firecracker writes them.
func parseRegions(text []byte) ([]MappedRegion, error) {
	var told []struct {
		Base   uint64 `json:"base_host_virt_addr"`
		Size   int64  `json:"size"`
		Offset int64  `json:"offset"`
		Page   int64  `json:"page_size"`
		// Versions from 1.7 on say it here, in bytes whatever the name; later ones in both.
		PageKiB int64 `json:"page_size_kib"`
	}
	if err := json.Unmarshal(text, &told); err != nil {
		return nil, fmt.Errorf("its regions: %w", err)
	}
	var regions []MappedRegion
	for _, t := range told {
		r := MappedRegion{Address: t.Base, Size: t.Size, Offset: t.Offset, PageSize: t.Page}
		if r.PageSize == 0 {
			r.PageSize = t.PageKiB
		}
		if r.PageSize > 0 && r.PageSize < pageSize {
			r.PageSize <<= 10
		}
		if r.PageSize == 0 {
			r.PageSize = pageSize
		}
		regions = append(regions, r)
	}
	return regions, nil
}

// Kill kills the VMM: its guest must not go on with pages missing.
func (h *HandOver) Kill() error {
	if h.Process == nil {
		return nil
	}
	return unix.PidfdSendSignal(int(h.Process.Fd()), unix.SIGKILL, nil, 0)
}

// Close closes what of the hand-over nobody took over.
func (h *HandOver) Close() {
	for _, f := range []*os.File{h.Fault, h.Process} {
		if f != nil {
			f.Close()
		}
	}
	h.Fault, h.Process = nil, nil
}
