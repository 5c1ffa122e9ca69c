package capture

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/arcboxlabs/arcstore/capture/criu"
)

// runcDumper dumps a container through runc checkpoint.
type runcDumper struct {
	c       *Container
	criu    string // path
	staging string
	calls   int
}

func newRuncDumper(ctx context.Context, c *Container, path, staging string) (*runcDumper, error) {
	d := &runcDumper{c: c, criu: path, staging: staging}
	var state struct {
		Status string `json:"status"`
	}
	out, err := d.runc(ctx, nil, "state", c.Runc)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal([]byte(out), &state); err != nil {
		return nil, fmt.Errorf("runc state %s: %w", c.Runc, err)
	}
	if state.Status != "running" && state.Status != "paused" {
		return nil, fmt.Errorf("%w: the container %s is %s", ErrNoProcess, c.Runc, state.Status)
	}
	return d, nil
}

// runc runs a command of runc's and returns its output; env is added to the environment.
func (d *runcDumper) runc(ctx context.Context, env []string, args ...string) (string, error) {
	if d.c.RuncRoot != "" {
		args = append([]string{"--root", d.c.RuncRoot}, args...)
	}
	cmd := exec.CommandContext(ctx, "runc", args...)
	cmd.Env = env
	// What a terminal sends to this process must not end runc in the middle.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return "", errors.New("runc is not installed, or not in PATH")
	case err != nil:
		err = criu.RuncError(err, stderr.String())
		if strings.Contains(err.Error(), "does not exist") {
			err = fmt.Errorf("%w: there is no container %s: %w", ErrNoProcess, d.c.Runc, err)
		}
		return "", err
	}
	return string(out), nil
}

func (d *runcDumper) preDump(ctx context.Context, dir, parent string) error {
	return d.checkpoint(ctx, dir, parent, nil, "--pre-dump")
}

func (d *runcDumper) dump(ctx context.Context, dir, parent string, stopped func() error) error {
	var args []string
	if d.c.LeaveRunning {
		args = append(args, "--leave-running")
	}
	return d.checkpoint(ctx, dir, parent, stopped, args...)
}

// checkpoint runs runc checkpoint with a CRIU that waits for stopped.
func (d *runcDumper) checkpoint(ctx context.Context, dir, parent string, stopped func() error, args ...string) error {
	d.calls++
	work := filepath.Join(d.staging, fmt.Sprintf("runc-%d", d.calls))
	bin := filepath.Join(work, "bin")
	if err := os.MkdirAll(bin, 0o700); err != nil {
		return err
	}
	o := d.c.Options
	for _, flag := range []struct {
		set  bool
		name string
	}{{o.TCPEstablished, "--tcp-established"}, {o.FileLocks, "--file-locks"}, {o.ShellJob, "--shell-job"}, {o.ExtUnixSockets, "--ext-unix-sk"}} {
		if flag.set {
			args = append(args, flag.name)
		}
	}
	if parent != "" {
		args = append(args, "--parent-path", parent)
	}
	args = append([]string{"checkpoint", "--image-path", dir, "--work-path", work}, append(args, d.c.Runc)...)
	proxy, err := criu.NewProxy(ctx, bin, d.criu, d.c.GhostLimit, o.External, stopped)
	if err != nil {
		return err
	}
	// Not ended with ctx: the proxy sees to that, where it does no harm.
	_, err = d.runc(context.WithoutCancel(ctx), proxy.Env(os.Environ()), args...)
	if perr := proxy.Close(); perr != nil {
		return perr // the cause; runc says that it failed
	}
	if err != nil {
		if cause := criu.LogError(filepath.Join(work, "dump.log")); cause != nil {
			return explain("container "+d.c.Runc, cause)
		}
	}
	return err
}
