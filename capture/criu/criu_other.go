//go:build !linux

package criu

import (
	"context"
	"fmt"
	"syscall"
)

// errLinux says that there is no CRIU here.
var errLinux = fmt.Errorf("criu: %w: CRIU works on Linux only", syscall.ENOSYS)

func kernelRelease() string { return "" }

// Dump needs Linux.
func Dump(ctx context.Context, path, images, work string, opts DumpOptions, stopped func() error) error {
	return errLinux
}

// PreDump needs Linux.
func PreDump(ctx context.Context, path, images, work string, opts DumpOptions) error { return errLinux }

// TracksMemory needs Linux.
func TracksMemory(path string) (bool, error) { return false, errLinux }

// Restore needs Linux.
func Restore(ctx context.Context, path, images, work string, opts RestoreOptions) (int, error) {
	return 0, errLinux
}

// AwaitPIDs needs Linux.
func AwaitPIDs(ctx context.Context, pids []int) error { return errLinux }

// Proxy needs Linux.
type Proxy struct{}

// NewProxy needs Linux.
func NewProxy(ctx context.Context, dir, path string, ghostLimit int64, external []string, stopped func() error) (*Proxy, error) {
	return nil, errLinux
}

// Env needs Linux.
func (*Proxy) Env(env []string) []string { return env }

// Close needs Linux.
func (*Proxy) Close() error { return errLinux }
