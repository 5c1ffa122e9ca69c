package criu

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/checkpoint-restore/go-criu/v7/rpc"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
)

// Proxy stands between a container runtime, which drives CRIU by itself, and
// CRIU, so that a dump that the runtime asked for waits, too, until its images are safe:
// it does what stopped does for Dump. A runtime finds it as a program
// named criu in Dir, which must come first in its PATH.
//
// That program is a shell script that tells the proxy its PID and waits. The
// proxy takes the runtime's socket from it, serves the runtime there, and has
// a CRIU of its own do the work.
type Proxy struct {
	dir      string
	path     string
	calls    *os.File
	answers  *os.File
	adapt    func(*rpc.CriuOpts)
	stopped  func() error
	safe     bool  // stopped has returned nil
	err      error // what stopped, or the service of a call, failed with
	finished chan struct{}
}

// Names in Dir.
const (
	proxyProgram = "criu"
	proxyCalls   = "calls"
	proxyAnswers = "answers"
)

// Where the proxy is gone, the script ends: the answers are opened before the call, so that reading them ends then, too.
const proxyScript = `#!/bin/sh
kill -0 %d && cd %s || exit 1
case $1 in
swrk) ;;
*) exec %s "$@" ;;
esac
{ echo "$$ $PPID $2" >calls && read -r code; } <answers && exit "$code"
exit 1
`

// NewProxy makes a proxy for the CRIU at path in dir, an empty directory.
// ghostLimit is as in DumpOptions; stopped may be nil. Close must be called.
func NewProxy(ctx context.Context, dir, path string, ghostLimit int64, external []string, stopped func() error) (*Proxy, error) {
	limits, err := (&DumpOptions{GhostLimit: ghostLimit}).rpc()
	if err != nil {
		return nil, err
	}
	p := &Proxy{dir: dir, path: path, stopped: stopped, finished: make(chan struct{}), adapt: func(o *rpc.CriuOpts) {
		if limits.GhostLimit != nil {
			o.GhostLimit = limits.GhostLimit
		}
		o.External = append(o.External, external...)
	}}
	script := fmt.Sprintf(proxyScript, os.Getpid(), quote(dir), quote(path))
	if err := os.WriteFile(filepath.Join(dir, proxyProgram), []byte(script), 0o700); err != nil {
		return nil, fmt.Errorf("criu: %w", err)
	}
	if p.calls, err = fifo(filepath.Join(dir, proxyCalls)); err != nil {
		return nil, err
	}
	if p.answers, err = fifo(filepath.Join(dir, proxyAnswers)); err != nil {
		p.calls.Close()
		return nil, err
	}
	go p.serve(ctx)
	return p, nil
}

// fifo makes a FIFO and opens it for both ways, so that no open of it blocks.
func fifo(name string) (*os.File, error) {
	if err := unix.Mkfifo(name, 0o600); err != nil {
		return nil, fmt.Errorf("criu: %w", &os.PathError{Op: "mkfifo", Path: name, Err: err})
	}
	f, err := os.OpenFile(name, os.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("criu: %w", err)
	}
	return f, nil
}

// quote quotes a word for a shell.
func quote(word string) string { return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'" }

// Env returns env with a PATH in which the proxy comes first.
func (p *Proxy) Env(env []string) []string {
	return append(env[:len(env):len(env)], "PATH="+p.dir+string(os.PathListSeparator)+os.Getenv("PATH"))
}

// Close ends the proxy, after the runtime has ended, and returns what went wrong in it.
func (p *Proxy) Close() error {
	p.calls.Close()
	<-p.finished
	p.answers.Close()
	return p.err
}

// serve answers one call after the other: a runtime waits for each before it makes the next.
func (p *Proxy) serve(ctx context.Context) {
	defer close(p.finished)
	calls := bufio.NewReader(p.calls)
	for {
		line, err := calls.ReadString('\n')
		if err != nil {
			return // closed
		}
		var call call
		code := 0
		if _, err := fmt.Sscan(line, &call.shim, &call.runtime, &call.socket); err != nil {
			p.fail(fmt.Errorf("criu: proxy: call %q: %w", line, err))
			code = 1
		} else if err := p.answer(ctx, call); err != nil {
			p.fail(err)
			code = 1
		}
		if _, err := p.answers.WriteString(strconv.Itoa(code) + "\n"); err != nil {
			p.fail(fmt.Errorf("criu: proxy: %w", err))
			return
		}
	}
}

func (p *Proxy) fail(err error) {
	if p.err == nil {
		p.err = err
	}
}

// call is one start of CRIU by the runtime.
type call struct {
	shim    int // PID of the script
	runtime int // of its parent
	socket  int // descriptor of the script's for CRIU's end of the connection
}

// answer serves the connection of one call until the runtime hangs up.
func (p *Proxy) answer(ctx context.Context, call call) error {
	fd, err := descriptor(call.shim, call.socket)
	if err != nil {
		return err
	}
	runtime, err := newConn(fd, "runtime")
	if err != nil {
		return err
	}
	defer runtime.Close()
	w, err := startWorker(p.path, true)
	if err != nil {
		return err
	}
	defer w.close()
	for {
		req := &rpc.CriuReq{}
		if err := runtime.receive(req); errors.Is(err, errGone) {
			return nil
		} else if err != nil {
			return err
		}
		if err := p.relay(ctx, call, runtime, w, req); err != nil {
			return err
		}
		if !req.GetKeepOpen() {
			return nil
		}
	}
}

// relay passes a request on to CRIU, and its answer back.
func (p *Proxy) relay(ctx context.Context, call call, runtime conn, w *worker, req *rpc.CriuReq) error {
	if req.Opts != nil {
		// CRIU looks for these in the process at the other end of its socket, which we are.
		for _, fd := range []*int32{req.Opts.ImagesDirFd, req.Opts.WorkDirFd} {
			if fd == nil || *fd < 0 {
				continue
			}
			own, err := descriptor(call.runtime, int(*fd))
			if err != nil {
				return err
			}
			defer unix.Close(own)
			*fd = int32(own)
		}
		if req.GetType() == rpc.CriuReqType_DUMP {
			p.adapt(req.Opts)
		}
	}
	var broken error
	resp, err := w.do(req, func(n *rpc.CriuNotify) (*rpc.CriuReq, error) {
		err := ctx.Err()
		if p.safe || p.err != nil {
			err = nil // it must finish what it does
		}
		if n.GetScript() == postDump && p.err == nil && p.stopped != nil {
			err = p.stopped()
			p.safe = err == nil
		}
		if err != nil {
			p.fail(err)
			return nil, err
		}
		var answer *rpc.CriuReq
		answer, broken = notify(runtime, n)
		return answer, broken
	})
	if broken != nil {
		return broken
	}
	if resp == nil { // refused, or CRIU is gone: the runtime is told that it failed
		resp = &rpc.CriuResp{Type: req.Type, Success: proto.Bool(false), CrErrmsg: proto.String(err.Error())}
	}
	return runtime.send(resp)
}

// notify passes a stage on to the runtime, and returns its answer.
func notify(runtime conn, n *rpc.CriuNotify) (*rpc.CriuReq, error) {
	if err := runtime.send(&rpc.CriuResp{Type: rpc.CriuReqType_NOTIFY.Enum(), Success: proto.Bool(true), Notify: n}); err != nil {
		return nil, err
	}
	answer := &rpc.CriuReq{}
	return answer, runtime.receive(answer)
}

// descriptor takes a copy of another process's descriptor.
func descriptor(pid, fd int) (int, error) {
	process, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return -1, fmt.Errorf("criu: proxy: process %d: %w", pid, err)
	}
	defer unix.Close(process)
	own, err := unix.PidfdGetfd(process, fd, 0)
	if err != nil {
		return -1, fmt.Errorf("criu: proxy: descriptor %d of process %d: %w", fd, pid, err)
	}
	return own, nil
}
