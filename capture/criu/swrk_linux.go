package criu

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"syscall"

	"github.com/checkpoint-restore/go-criu/v7/rpc"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
)

// maxMessage bounds a message of CRIU's RPC, in bytes: lists of external mounts are the longest there are.
const maxMessage = 1 << 20

// conn is one end of CRIU's RPC, where each packet is a message.
type conn struct{ *net.UnixConn }

// newConn takes over the socket fd.
func newConn(fd int, name string) (conn, error) {
	f := os.NewFile(uintptr(fd), name)
	defer f.Close() // FileConn has a descriptor of its own
	c, err := net.FileConn(f)
	if err != nil {
		return conn{}, fmt.Errorf("criu: %w", err)
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		c.Close()
		return conn{}, errors.New("criu: its RPC is no Unix socket")
	}
	return conn{u}, nil
}

func (c conn) send(m proto.Message) error {
	b, err := proto.Marshal(m)
	if err != nil {
		return fmt.Errorf("criu: %w", err)
	}
	switch _, err := c.Write(b); {
	case errors.Is(err, syscall.EPIPE), errors.Is(err, syscall.ECONNRESET):
		return errGone
	case err != nil:
		return fmt.Errorf("criu: %w", err)
	}
	return nil
}

// receive fails with errGone where the other end has closed the connection.
func (c conn) receive(m proto.Message) error {
	b := make([]byte, maxMessage)
	n, _, flags, _, err := c.ReadMsgUnix(b, nil)
	switch {
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, io.EOF), err == nil && n == 0:
		return errGone
	case err != nil:
		return fmt.Errorf("criu: %w", err)
	case flags&unix.MSG_TRUNC != 0:
		return fmt.Errorf("criu: a message has more than %d bytes", maxMessage)
	}
	if err := proto.Unmarshal(b[:n], m); err != nil {
		return fmt.Errorf("criu: message: %w", err)
	}
	return nil
}

// worker is a CRIU process that serves one connection. It is a child of this
// process in a session of its own: what a terminal sends to this process must not end
// a CRIU that has its code inside a process that it dumps. For that reason
// go-criu's Criu is not used, which gives no say in how CRIU starts.
type worker struct {
	conn
	cmd *exec.Cmd
}

// deaf makes CRIU ignore the signals by which service managers end whole groups of processes, too.
const deaf = `trap "" HUP INT TERM; exec "$0" swrk 3`

// startWorker starts the CRIU at path. For a dump, it is deaf to polite signals; a restore
// would give that on to the processes that it restores.
func startWorker(path string, dump bool) (*worker, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("criu: %w", err)
	}
	theirs := os.NewFile(uintptr(fds[1]), "criu")
	defer theirs.Close()
	c, err := newConn(fds[0], "criu")
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(path, "swrk", "3")
	if dump {
		cmd = exec.Command("/bin/sh", "-c", deaf, path)
	}
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		c.Close()
		return nil, fmt.Errorf("criu: %w", err)
	}
	return &worker{c, cmd}, nil
}

// close hangs up, upon which CRIU undoes what it has not finished, and waits for its end.
func (w *worker) close() error {
	w.conn.Close()
	if err := w.cmd.Wait(); err != nil {
		return fmt.Errorf("criu: %w", err)
	}
	return nil
}

// do makes one request. notify gives the answer at each of CRIU's stages, nil for yes; an error
// of it makes CRIU give up, and is in the error that do returns.
func (w *worker) do(req *rpc.CriuReq, notify func(*rpc.CriuNotify) (*rpc.CriuReq, error)) (*rpc.CriuResp, error) {
	if err := w.send(req); err != nil {
		return nil, err
	}
	var refused error
	for {
		resp := &rpc.CriuResp{}
		if err := w.receive(resp); err != nil {
			return nil, errors.Join(refused, err)
		}
		if resp.GetType() != rpc.CriuReqType_NOTIFY || resp.Notify == nil {
			if refused != nil {
				return nil, refused
			}
			return resp, failure(resp)
		}
		answer, err := notify(resp.Notify)
		if refused == nil {
			refused = err
		}
		if err != nil || answer == nil {
			answer = &rpc.CriuReq{Type: rpc.CriuReqType_NOTIFY.Enum(), NotifySuccess: proto.Bool(err == nil)}
		}
		if err := w.send(answer); err != nil {
			return nil, errors.Join(refused, err)
		}
	}
}

// failure returns the error that an answer reports, or nil.
func failure(resp *rpc.CriuResp) error {
	if resp.GetSuccess() {
		return nil
	}
	return &FailedError{Text: resp.GetCrErrmsg(), Errno: syscall.Errno(resp.GetCrErrno())}
}
