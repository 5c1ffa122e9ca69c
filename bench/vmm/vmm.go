package vmm

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
)

// environment has the program play the VMM, as this configuration says.
const environment = "ARCSTORE_PLAY_VMM"

// Config says what the VMM maps and to whom it hands that over.
type Config struct {
	Socket  string   `json:"socket"`
	Memory  string   `json:"memory"` // file with what the memory must be
	Regions []Region `json:"regions"`
	// PageSize is 4 KiB or 2 MiB; the latter takes huge pages, of which the kernel must have some.
	PageSize int64 `json:"page_size"`
	// Old has the message look as Firecracker's before 1.12 does.
	Old bool `json:"old,omitempty"`
	// Twice hands over a second time.
	Twice bool `json:"twice,omitempty"`
	// Copies serves the faults itself, from a copy of the memory: what a service is measured against.
	Copies bool `json:"copies,omitempty"`
	// Late hands over with the first thing that the guest does.
	Late bool `json:"late,omitempty"`
	// Map maps this file privately, and hands nothing over.
	Map string `json:"map,omitempty"`
	// Writable opens it for writing, which it does not do.
	Writable bool `json:"writable,omitempty"`
	// Lie adds so many bytes to the last region's size in what is told.
	Lie int64 `json:"lie,omitempty"`
	// Memfd sends another descriptor along.
	Memfd bool `json:"memfd,omitempty"`
	// Pieces sends the message in pieces, the first one without descriptor.
	Pieces bool `json:"pieces,omitempty"`
}

// Region is a part of the memory that the VMM maps by itself.
type Region struct {
	Offset int64 `json:"offset"`
	Size   int64 `json:"size"`
}

// Do is something that the guest does.
type Do struct {
	// Touch lists pages of 4 KiB that are read, from so many threads: each of them its own part, or all the same with Race.
	Touch   []int64 `json:"touch,omitempty"`
	Threads int     `json:"threads,omitempty"`
	Race    bool    `json:"race,omitempty"`
	// Write writes to the pages that are touched.
	Write bool `json:"write,omitempty"`
	// Free frees pages as a balloon does, Unmap unmaps them.
	Free  []int64 `json:"free,omitempty"`
	Unmap []int64 `json:"unmap,omitempty"`
	// Times asks for the latency of each touch.
	Times bool `json:"times,omitempty"`
}

// Done says what came of it.
type Done struct {
	Wrong    []int64 `json:"wrong,omitempty"`    // pages that were not what they must be
	Poisoned []int64 `json:"poisoned,omitempty"` // pages whose touch got SIGBUS
	Nanos    []int64 `json:"nanos,omitempty"`    // latencies, in the order of Touch
	Elapsed  int64   `json:"elapsed"`            // nanoseconds
	Err      string  `json:"err,omitempty"`
}

// VMM is the process.
type VMM struct {
	cmd *exec.Cmd
	in  *json.Encoder
	pip io.Closer
	out *bufio.Reader
}

// Start starts a VMM, which has handed its memory over when Start returns.
func Start(ctx context.Context, c *Config) (*VMM, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	config, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self)
	cmd.Env = append(os.Environ(), environment+"="+string(config))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	v := &VMM{cmd: cmd, in: json.NewEncoder(in), pip: in, out: bufio.NewReader(out)}
	if _, err := v.answer(); err != nil {
		v.Kill()
		return nil, err
	}
	return v, nil
}

// ErrDied says that the VMM is gone.
var ErrDied = errors.New("vmm: it is gone")

func (v *VMM) answer() (*Done, error) {
	line, err := v.out.ReadBytes('\n')
	if err != nil {
		return nil, ErrDied
	}
	d := &Done{}
	if err := json.Unmarshal(line, d); err != nil {
		return nil, fmt.Errorf("vmm: %w: %q", err, line)
	}
	if d.Err != "" {
		return d, errors.New(d.Err)
	}
	return d, nil
}

// Do has the guest do something, and waits until it is done.
func (v *VMM) Do(d *Do) (*Done, error) {
	if err := v.in.Encode(d); err != nil {
		return nil, ErrDied
	}
	return v.answer()
}

// PID returns the process's ID.
func (v *VMM) PID() int { return v.cmd.Process.Pid }

// Kill kills it, as a crash would, and waits for its end.
func (v *VMM) Kill() {
	v.cmd.Process.Kill()
	v.cmd.Wait()
}

// Close ends it, and waits for its end.
func (v *VMM) Close() error {
	v.pip.Close()
	return v.cmd.Wait()
}

// Wait waits for its end: that it is killed.
func (v *VMM) Wait() error { return v.cmd.Wait() }
