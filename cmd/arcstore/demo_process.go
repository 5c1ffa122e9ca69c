package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"

	"github.com/arcboxlabs/arcstore"
	"github.com/arcboxlabs/arcstore/capture"
)

// demoGuest is the demo's busy process, from the outside. Between two calls of
// work it waits for the next, and its memory stays as it is.
type demoGuest struct {
	what   string // in words
	memory arcstore.Source

	cmd      *exec.Cmd
	commands io.WriteCloser
	answers  *bufio.Reader
	opened   io.Closer
}

// startDemoGuest starts this program once more, as the busy process. Its
// memory is read from the process itself where the system lets us, and from a file at
// path that it has mapped where not.
func startDemoGuest(ctx context.Context, path string, size int64) (*demoGuest, error) {
	if runtime.GOOS == "linux" {
		g, err := launchDemoGuest(ctx, "", size)
		if !errors.Is(err, errNoProcessMemory) {
			return g, err
		}
	}
	return launchDemoGuest(ctx, path, size)
}

// errNoProcessMemory: the system does not let us read another process's memory.
var errNoProcessMemory = errors.New("the memory of a process cannot be read")

func launchDemoGuest(ctx context.Context, path string, size int64) (_ *demoGuest, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	args := []string{demoGuestName, strconv.FormatInt(size, 10)}
	if path != "" {
		args = append(args, path)
	}
	g := &demoGuest{cmd: exec.CommandContext(ctx, self, args...)}
	g.cmd.Args[0] = os.Args[0]
	g.cmd.Stderr = os.Stderr
	if g.commands, err = g.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := g.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	g.answers = bufio.NewReader(out)
	if err := g.cmd.Start(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			g.close()
		}
	}()
	text, err := g.answer("at ")
	if err != nil {
		return nil, err
	}
	address, err := strconv.ParseUint(text, 0, 63)
	if err != nil {
		return nil, fmt.Errorf("address of the process's memory: %w", err)
	}
	if path != "" {
		f, err := capture.OpenFile(path)
		if err != nil {
			return nil, err
		}
		g.memory, g.opened = f, f
		g.what = "a file that process " + strconv.Itoa(g.cmd.Process.Pid) + " has mapped"
		return g, nil
	}
	name := fmt.Sprintf("/proc/%d/mem", g.cmd.Process.Pid)
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNoProcessMemory, err)
	}
	g.opened = f
	g.memory = io.NewSectionReader(f, int64(address), size)
	g.what = name
	if _, err := g.memory.ReadAt(make([]byte, 1), 0); err != nil {
		return nil, fmt.Errorf("%w: %w", errNoProcessMemory, err)
	}
	return g, nil
}

// work lets the process do something until it waits again.
func (g *demoGuest) work() error {
	if _, err := io.WriteString(g.commands, "work\n"); err != nil {
		return fmt.Errorf("tell the process to work: %w", err)
	}
	_, err := g.answer("done")
	return err
}

// answer reads one line from the process and returns what follows prefix.
func (g *demoGuest) answer(prefix string) (string, error) {
	line, err := g.answers.ReadString('\n')
	if err != nil {
		return "", fmt.Errorf("the busy process ended: %w", err)
	}
	rest, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), prefix)
	if !ok {
		return "", fmt.Errorf("the busy process says %q", line)
	}
	return rest, nil
}

// close ends the process.
func (g *demoGuest) close() {
	if g.opened != nil {
		g.opened.Close()
	}
	_ = g.cmd.Process.Kill()
	_ = g.cmd.Wait() // its status is that it was killed
}
