package restore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/arcboxlabs/arcstore/capture/criu"
	"github.com/arcboxlabs/arcstore/manifest"
)

// runRunc restores a container through runc restore.
func runRunc(ctx context.Context, path, images, work string, about *manifest.Checkpoint, opts RunOptions) (int, error) {
	// runc takes the criu that it finds in PATH.
	bin := filepath.Join(work, "bin")
	if err := os.Mkdir(bin, 0o700); err != nil {
		return 0, err
	}
	path, err := filepath.Abs(path)
	if err == nil {
		err = os.Symlink(path, filepath.Join(bin, "criu"))
	}
	if err != nil {
		return 0, err
	}
	pidFile := opts.PIDFile
	if pidFile == "" {
		pidFile = filepath.Join(work, "pid")
	}
	var args []string
	if opts.RuncRoot != "" {
		args = append(args, "--root", opts.RuncRoot)
	}
	args = append(args, "restore", "--detach", "--image-path", images, "--work-path", work, "--bundle", opts.Bundle, "--pid-file", pidFile)
	o := about.Options
	for _, flag := range []struct {
		set  bool
		name string
	}{{o.TCPEstablished, "--tcp-established"}, {o.FileLocks, "--file-locks"}, {o.ShellJob, "--shell-job"}, {o.ExtUnixSockets, "--ext-unix-sk"}} {
		if flag.set {
			args = append(args, flag.name)
		}
	}
	cmd := exec.Command("runc", append(args, opts.Runc)...)
	cmd.Env = append(os.Environ(), "PATH="+bin+string(os.PathListSeparator)+os.Getenv("PATH"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	// A file, not a pipe: the container has it open, too, for as long as it lives.
	log, err := os.Create(filepath.Join(work, "runc.log"))
	if err != nil {
		return 0, err
	}
	defer log.Close()
	cmd.Args = append([]string{"runc", "--log", log.Name()}, cmd.Args[1:]...)
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if err := cmd.Run(); errors.Is(err, exec.ErrNotFound) {
		return 0, errors.New("runc is not installed, or not in PATH")
	} else if err != nil {
		if cause := criu.LogError(filepath.Join(work, "restore.log")); cause != nil {
			return 0, fmt.Errorf("container %s: %w", opts.Runc, cause)
		}
		text, rerr := os.ReadFile(log.Name())
		if rerr != nil {
			return 0, rerr
		}
		return 0, fmt.Errorf("container %s: %w", opts.Runc, criu.RuncError(err, string(text)))
	}
	text, err := os.ReadFile(pidFile)
	if err != nil {
		return 0, err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0, fmt.Errorf("runc's PID file: %w", err)
	}
	return pid, nil
}
