package capture

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/arcboxlabs/arcstore/chunker"
)

// What a command that Exec runs finds in its environment.
const (
	ExecMemory   = "ARCSTORE_MEMORY"    // path of the file for the memory
	ExecStateDir = "ARCSTORE_STATE_DIR" // path of a directory, where each file becomes a stream of its name
	ExecTarget   = "ARCSTORE_TARGET"    // whose memory that is
)

// execDelay is how long what a command has started may hold on to its output when the command has ended.
const execDelay = 5 * time.Second

// Written is a VM in files that a command has written. It must be closed.
type Written struct {
	VM
	files []*File
}

// Close closes the files.
func (w *Written) Close() {
	for _, f := range w.files {
		f.Close()
	}
}

// Exec runs a command, in a directory or, if that is "", in ours, that writes the memory of target, and perhaps other state, into files in dir, which is empty. When ctx ends, the command and all
// that it started in its process group are killed.
func Exec(ctx context.Context, command []string, directory, target, dir string) (*Written, error) {
	memory, state := filepath.Join(dir, "memory"), filepath.Join(dir, "state")
	if err := os.Mkdir(state, 0o700); err != nil {
		return nil, fmt.Errorf("capture: %w", err)
	}
	if err := run(ctx, command, directory, ExecMemory+"="+memory, ExecStateDir+"="+state, ExecTarget+"="+target); err != nil {
		return nil, err
	}
	info, err := os.Lstat(memory)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("capture: %w: the command ended without having written the memory into the file %s", ErrInvalid, "$"+ExecMemory)
	case err != nil:
		return nil, fmt.Errorf("capture: %w", err)
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("capture: %w: the command made something else than a regular file of %s", ErrInvalid, "$"+ExecMemory)
	case info.Size() == 0:
		return nil, fmt.Errorf("capture: %w: the command left the file %s empty", ErrInvalid, "$"+ExecMemory)
	}
	w := &Written{VM: VM{State: make(map[string]chunker.Source)}}
	file, err := OpenFile(memory)
	if err == nil {
		w.files, w.Memory = append(w.files, file), file
		err = w.open(state)
	}
	if err != nil {
		w.Close()
		return nil, err
	}
	return w, nil
}

// open takes each file below a directory as a stream.
func (w *Written) open(dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		name = filepath.ToSlash(name)
		if !d.Type().IsRegular() {
			return fmt.Errorf("capture: %w: %s, which the command made in %s, is no regular file", ErrInvalid, name, "$"+ExecStateDir)
		}
		f, err := OpenFile(path)
		if err != nil {
			return err
		}
		w.files, w.State[name] = append(w.files, f), f
		return nil
	})
}

// run runs a command. An error says what it said last.
func run(ctx context.Context, command []string, directory string, env ...string) error {
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Dir = directory
	cmd.Env = append(os.Environ(), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = execDelay
	said := &lastLine{}
	cmd.Stderr = said
	err := cmd.Run()
	if ctx.Err() != nil {
		return fmt.Errorf("capture: %s: %w", command[0], context.Cause(ctx))
	}
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil // it has ended well, and what it left behind is its own
	}
	if err == nil {
		return nil
	}
	if text := said.text(); text != "" {
		return fmt.Errorf("capture: the command failed (%w): %s", err, text)
	}
	return fmt.Errorf("capture: the command failed: %w", err)
}

// maxLine is how much of a line is kept, in bytes.
const maxLine = 1000

// lastLine keeps the last line that is written to it and is not blank.
type lastLine struct{ last, line []byte }

func (l *lastLine) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		i := bytes.IndexByte(rest, '\n')
		part := rest
		if i >= 0 {
			part = rest[:i]
		}
		l.line = append(l.line, part[:min(len(part), maxLine-len(l.line))]...)
		if i < 0 {
			break
		}
		l.end()
		rest = rest[i+1:]
	}
	return len(p), nil
}

func (l *lastLine) end() {
	if len(bytes.TrimSpace(l.line)) > 0 {
		l.last = append(l.last[:0], l.line...)
	}
	l.line = l.line[:0]
}

func (l *lastLine) text() string {
	l.end()
	return strings.ToValidUTF8(strings.TrimSpace(string(l.last)), "?")
}
