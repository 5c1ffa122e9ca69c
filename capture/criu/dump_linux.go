package criu

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"

	"github.com/checkpoint-restore/go-criu/v7/rpc"
	"google.golang.org/protobuf/proto"
)

// logName is the name of CRIU's log in its working directory.
const logName = "criu.log"

// logLevel has warnings and errors in the log.
const logLevel = 2

// postDump is the stage at which all images are written and the tree is still stopped.
const postDump = "post-dump"

// Dump writes the images of a process tree to the directory images, by the
// CRIU at path, with its log in the directory work. It calls stopped when all images are
// written and the tree is stopped: where that fails, the tree goes on as if nothing had
// happened, and so it does when this process dies meanwhile. Only when
// stopped has returned nil, the tree is killed, or let go on with LeaveRunning.
//
// CRIU cannot be interrupted safely: a context that ends makes it give up at the next stage.
func Dump(ctx context.Context, path, images, work string, opts DumpOptions, stopped func() error) error {
	o, err := opts.rpc()
	if err != nil {
		return err
	}
	o.LeaveRunning = proto.Bool(opts.LeaveRunning)
	o.NotifyScripts = proto.Bool(true)
	o.TrackMem = proto.Bool(opts.Parent != "")
	called := false
	_, err = request(path, images, work, rpc.CriuReqType_DUMP, o, true, nil, func(stage string) error {
		if stage == postDump {
			called = true
			return stopped()
		}
		if called {
			return nil
		}
		return ctx.Err()
	})
	if err == nil && !called {
		return fmt.Errorf("criu: it never said %s: this CRIU is too old", postDump)
	}
	return err
}

// PreDump writes the memory of a tree, which goes on running, to the
// directory images, and makes the kernel track what changes from then on.
func PreDump(ctx context.Context, path, images, work string, opts DumpOptions) error {
	o, err := opts.rpc()
	if err != nil {
		return err
	}
	o.TrackMem = proto.Bool(true)
	o.NotifyScripts = proto.Bool(true)
	_, err = request(path, images, work, rpc.CriuReqType_PRE_DUMP, o, true, nil, func(string) error { return ctx.Err() })
	return err
}

// TracksMemory reports whether the kernel can tell which pages changed, which PreDump needs.
func TracksMemory(path string) (bool, error) {
	w, err := startWorker(path, true)
	if err != nil {
		return false, err
	}
	defer w.close()
	resp, err := w.do(&rpc.CriuReq{Type: rpc.CriuReqType_FEATURE_CHECK.Enum(), Features: &rpc.CriuFeatures{MemTrack: proto.Bool(true)}}, nil)
	if err != nil {
		return false, err
	}
	return resp.GetFeatures().GetMemTrack(), nil
}

// rpc returns the options in CRIU's words.
func (opts *DumpOptions) rpc() (*rpc.CriuOpts, error) {
	o := &rpc.CriuOpts{
		Pid:            proto.Int32(int32(opts.PID)),
		TcpEstablished: proto.Bool(opts.TCPEstablished),
		FileLocks:      proto.Bool(opts.FileLocks),
		ShellJob:       proto.Bool(opts.ShellJob),
		ExtUnixSk:      proto.Bool(opts.ExtUnixSockets),
		External:       opts.External,
	}
	if opts.GhostLimit < 0 || opts.GhostLimit > math.MaxUint32 {
		return nil, fmt.Errorf("criu: a limit of %d bytes for ghost files is out of range", opts.GhostLimit)
	}
	if opts.GhostLimit > 0 {
		o.GhostLimit = proto.Uint32(uint32(opts.GhostLimit))
	}
	if opts.Parent != "" {
		o.ParentImg = proto.String(opts.Parent)
	}
	return o, nil
}

// request makes one request of a CRIU of its own. joined, if not nil, is told its PID before the request.
func request(path, images, work string, kind rpc.CriuReqType, o *rpc.CriuOpts, dump bool, joined func(pid int) error,
	notify func(stage string) error) (*rpc.CriuResp, error) {
	imagesDir, err := os.Open(images)
	if err != nil {
		return nil, fmt.Errorf("criu: %w", err)
	}
	defer imagesDir.Close()
	workDir, err := os.Open(work)
	if err != nil {
		return nil, fmt.Errorf("criu: %w", err)
	}
	defer workDir.Close()
	o.ImagesDirFd = proto.Int32(int32(imagesDir.Fd()))
	o.WorkDirFd = proto.Int32(int32(workDir.Fd()))
	o.LogFile = proto.String(logName)
	o.LogLevel = proto.Int32(logLevel)
	w, err := startWorker(path, dump)
	if err != nil {
		return nil, err
	}
	if joined != nil {
		err = joined(w.cmd.Process.Pid)
	}
	var resp *rpc.CriuResp
	if err == nil {
		resp, err = w.do(&rpc.CriuReq{Type: kind.Enum(), Opts: o}, func(n *rpc.CriuNotify) (*rpc.CriuReq, error) {
			return nil, notify(n.GetScript())
		})
	}
	// A CRIU that has answered may end with any code.
	if cerr := w.close(); errors.Is(err, errGone) && cerr != nil {
		err = fmt.Errorf("%w: %w", err, cerr)
	}
	return resp, explain(err, filepath.Join(work, logName))
}
