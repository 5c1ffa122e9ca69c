package restore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/arcboxlabs/arcstore/capture/criu"
	"github.com/arcboxlabs/arcstore/manifest"
)

// checkRunc looks at the bundle, and whether the container's ID is free.
func checkRunc(ctx context.Context, opts RunOptions) error {
	config := filepath.Join(opts.Bundle, "config.json")
	text, err := os.ReadFile(config)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("there is no bundle in %s: it has no config.json", opts.Bundle)
	}
	if err != nil {
		return err
	}
	var spec map[string]any
	if err := json.Unmarshal(text, &spec); err != nil {
		return fmt.Errorf("%s is no configuration of a container: %w", config, err)
	}
	args := []string{"state", opts.Runc}
	if opts.RuncRoot != "" {
		args = append([]string{"--root", opts.RuncRoot}, args...)
	}
	if exec.CommandContext(ctx, "runc", args...).Run() == nil {
		return fmt.Errorf("there is a container %s already: choose another ID, or delete that one (runc delete %[1]s)", opts.Runc)
	}
	return nil
}

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
