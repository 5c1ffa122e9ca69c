package firecracker

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
)

// Options are the choices of Start.
type Options struct {
	Socket    string // where it listens
	MemoryMiB int
	// Truth is a file where it puts a copy of the guest's memory each time that it is asked for a snapshot.
	Truth      string
	Version    string // default 1.16.1
	Untracked  bool   // it does not track dirty pages
	NotStarted bool   // the guest was not started
	// Jail is a directory that it takes for its root, as user and group User. The paths above are in it, and must lie in a directory that the user can write to.
	Jail string
	User int
}

// What a Process can be told to do with the next snapshot that it is asked for. All but Refuse forget what is dirty, as a Firecracker that
// fails late does.
const (
	Refuse  = "refuse"  // do nothing, answer with a fault
	Fail    = "fail"    // write, answer with a fault
	Garbage = "garbage" // write, answer with what is no HTTP
	Hang    = "hang"    // write, answer once it is told to Go
	Corrupt = "corrupt" // write a state file with one bit that is wrong
	Short   = "short"   // write half of the memory
	Die     = "die"     // write, and end without an answer
	Go      = "go"      // answer
	ask     = "ask"     // nothing: only tell
)

// A Process plays Firecracker. Its methods may be called from several goroutines.
type Process struct {
	cmd *exec.Cmd

	mu  sync.Mutex
	in  io.WriteCloser
	out *bufio.Reader
}

// variable has the options of a process that is started to play.
const variable = "ARCSTORE_TEST_FIRECRACKER"

// A test binary that is started to play does nothing else: a process of its own, such as can be told apart, and killed.
func init() {
	if text := os.Getenv(variable); text != "" {
		if err := play(text); err != nil {
			fmt.Fprintln(os.Stderr, "firecracker:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
}

// Start starts a process, which ends with this one. It answers when Start returns, and its guest runs.
func Start(ctx context.Context, opts Options) (*Process, error) {
	if opts.Version == "" {
		opts.Version = "1.16.1"
	}
	text, err := json.Marshal(opts)
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p := &Process{cmd: exec.CommandContext(ctx, self)}
	p.cmd.Env = append(os.Environ(), variable+"="+string(text))
	p.cmd.Stderr = os.Stderr
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a signal to the group of the test is not for it
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.out = bufio.NewReader(out)
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	if err := p.Tell(ask); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

// Close kills the process.
func (p *Process) Close() error {
	p.cmd.Process.Kill()
	p.in.Close()
	p.cmd.Wait() // says that it was killed
	return nil
}

// Tell says what is to become of the next snapshot.
func (p *Process) Tell(what string) error {
	_, err := p.told(what)
	return err
}

// Status is what a Process tells of itself.
type Status struct {
	State     string // as the API has it
	Pages     int64  // that the guest has written
	Snapshots int    // that it was asked for
	Last      string // Full or Diff, the last of them
}

// Status asks for it, not at the socket.
func (p *Process) Status() (Status, error) { return p.told(ask) }

func (p *Process) told(what string) (s Status, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, err := fmt.Fprintln(p.in, what); err != nil {
		return s, err
	}
	line, err := p.out.ReadString('\n')
	if err != nil {
		return s, err
	}
	return s, json.Unmarshal([]byte(line), &s)
}

// PID is that of the process.
func (p *Process) PID() int { return p.cmd.Process.Pid }

func play(text string) error {
	var opts Options
	if err := json.Unmarshal([]byte(text), &opts); err != nil {
		return err
	}
	if opts.Jail != "" {
		if err := errors.Join(syscall.Chroot(opts.Jail), os.Chdir("/"), syscall.Setgid(opts.User), syscall.Setuid(opts.User)); err != nil {
			return err
		}
	}
	v := newVM(opts)
	failed := make(chan error, 1)
	listening := make(chan struct{})
	go func() { failed <- v.serve(opts.Socket, listening) }()
	select {
	case err := <-failed:
		return err
	case <-listening:
	}
	go v.run()
	go func() {
		told := bufio.NewScanner(os.Stdin)
		for told.Scan() {
			v.told(told.Text())
			answer, err := json.Marshal(v.status())
			if err != nil {
				break
			}
			fmt.Println(string(answer))
		}
		failed <- nil // who started us is gone
	}()
	return <-failed
}
