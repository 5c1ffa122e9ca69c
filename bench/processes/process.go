package processes

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

//go:embed objects.py pipes.py
var scripts embed.FS

// patience is how long a workload may take to answer.
const patience = 30 * time.Second

// Process is a tree of processes in a session of its own, that counts. A
// checkpoint may end it, and a restore bring it back with the same PID.
type Process struct {
	PID  int // of its root, and of its session
	file string
}

// Objects starts a Python process that keeps so many MiB of live objects. dir is for its files.
func Objects(ctx context.Context, dir string, megabytes int) (*Process, error) {
	return python(ctx, dir, "objects.py", strconv.Itoa(megabytes))
}

// Pipes starts three Python processes that pass a number around through pipes.
func Pipes(ctx context.Context, dir string) (*Process, error) { return python(ctx, dir, "pipes.py") }

func python(ctx context.Context, dir, script string, args ...string) (*Process, error) {
	// The system's Python, and no shim that starts another process.
	path, err := program("criu", "/usr/bin/python3", "apt-get install python3")
	if err != nil {
		return nil, err
	}
	text, err := scripts.ReadFile(script)
	if err != nil {
		return nil, err
	}
	name := filepath.Join(dir, script)
	if err := os.WriteFile(name, text, 0o600); err != nil {
		return nil, err
	}
	p := &Process{file: filepath.Join(dir, "count")}
	if err := p.start(dir, path, append([]string{name, p.file}, args...)...); err != nil {
		return nil, err
	}
	return p, p.GoesOn(ctx)
}

// start starts a program in a session of its own, with nothing open that leads elsewhere.
func (p *Process) start(dir, name string, args ...string) error {
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("processes: %w", err)
	}
	p.PID = cmd.Process.Pid
	go cmd.Wait() // whoever ends it
	return nil
}

// Stop ends the processes, also those that a restore brought back.
func (p *Process) Stop() { syscall.Kill(-p.PID, syscall.SIGKILL) }

// Count returns how far the process has counted, 0 where it has not begun.
func (p *Process) Count() (int, error) {
	b, err := os.ReadFile(p.file)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(b)))
}

// GoesOn waits until the process counts on.
func (p *Process) GoesOn(ctx context.Context) error {
	first, err := p.Count()
	if err != nil {
		return err
	}
	return p.await(ctx, "it does not count on", func() (bool, error) {
		n, err := p.Count()
		return n > first, err
	})
}

// Change makes an Objects process change n of its objects.
func (p *Process) Change(ctx context.Context, n int) error {
	if err := ask(p.file+".change", strconv.Itoa(n)); err != nil {
		return err
	}
	return p.await(ctx, "it does not change its objects", func() (bool, error) {
		_, err := os.Stat(p.file + ".change")
		return errors.Is(err, fs.ErrNotExist), nil
	})
}

// Check makes an Objects process look at all its objects, and fails where
// they are not what they should be after so many changes.
func (p *Process) Check(ctx context.Context, changes int) error {
	if err := ask(p.file+".check", ""); err != nil {
		return err
	}
	var answer []byte
	err := p.await(ctx, "it does not check its objects", func() (bool, error) {
		var err error
		answer, err = os.ReadFile(p.file + ".checked")
		if errors.Is(err, fs.ErrNotExist) {
			return false, nil
		}
		return err == nil, err
	})
	if err != nil {
		return err
	}
	var wrong, count, changed int
	if _, err := fmt.Sscanf(string(answer), "%d wrong of %d, %d changes", &wrong, &count, &changed); err != nil {
		return fmt.Errorf("processes: answer %q: %w", answer, err)
	}
	if wrong != 0 || count == 0 || changed != changes {
		return fmt.Errorf("processes: %s, after %d", answer, changes)
	}
	return os.Remove(p.file + ".checked")
}

// ask leaves a request where a process looks for it.
func ask(name, text string) error {
	if err := os.WriteFile(name+".asked", []byte(text), 0o600); err != nil {
		return err
	}
	return os.Rename(name+".asked", name)
}

func (p *Process) await(ctx context.Context, what string, done func() (bool, error)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("processes: %d: %s", p.PID, what))
	defer cancel()
	for {
		if ok, err := done(); ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(2 * time.Millisecond):
		}
	}
}
