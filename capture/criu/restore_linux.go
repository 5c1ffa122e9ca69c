package criu

import (
	"context"
	"fmt"

	"github.com/checkpoint-restore/go-criu/v7/rpc"
	"google.golang.org/protobuf/proto"
)

// Restore brings a process tree back to life from the directory images, by the CRIU at path, with
// its log in the directory work. The tree runs on its own, in a session of its own, with the PIDs that it had;
// the PID of its root is returned. A restore that fails leaves no process behind.
func Restore(ctx context.Context, path, images, work string, opts RestoreOptions) (int, error) {
	o := &rpc.CriuOpts{
		TcpEstablished:    proto.Bool(opts.TCPEstablished),
		FileLocks:         proto.Bool(opts.FileLocks),
		ShellJob:          proto.Bool(opts.ShellJob),
		ExtUnixSk:         proto.Bool(opts.ExtUnixSockets),
		External:          opts.External,
		NotifyScripts:     proto.Bool(true),
		ManageCgroupsMode: rpc.CriuCgMode_IGNORE.Enum(),
	}
	var join func(int) error
	if opts.Cgroup != "" {
		join = func(pid int) error { return joinCgroup(opts.Cgroup, pid) }
	}
	resp, err := request(path, images, work, rpc.CriuReqType_RESTORE, o, false, join, func(string) error { return ctx.Err() })
	if err != nil {
		return 0, err
	}
	if resp.GetRestore() == nil {
		return 0, fmt.Errorf("criu: its answer to a restore has no PID")
	}
	return int(resp.GetRestore().GetPid()), nil
}
