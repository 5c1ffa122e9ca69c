package firecracker

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Process is which process one is, for good: a process ID alone comes back.
type Process struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // in ticks since the machine started
	Boot  string `json:"boot"`  // the ID of that start

	UID int `json:"-"`
	GID int `json:"-"`
}

// Known reports whether p says which process it is; where the system does not tell, it does not.
func (p *Process) Known() bool { return p != nil && p.PID > 0 && p.Start > 0 && p.Boot != "" }

// Same reports whether two are known, and one process.
func (p *Process) Same(other *Process) bool {
	return p.Known() && other.Known() && p.PID == other.PID && p.Start == other.Start && p.Boot == other.Boot
}

// identify finds out what process has an ID now.
func identify(pid int) (*Process, error) {
	stat, err := os.ReadFile(procPath(pid, "stat"))
	if err != nil {
		return nil, err
	}
	// The second field is the name, in parentheses, which may have anything in it.
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) < 20 {
		return nil, fmt.Errorf("firecracker: process %d: its state has %d fields", pid, len(fields))
	}
	p := &Process{PID: pid}
	if p.Start, err = strconv.ParseUint(string(fields[19]), 10, 64); err != nil {
		return nil, err
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	p.Boot = strings.TrimSpace(string(boot))
	return p, err
}

// Alive returns an error where the process is no more.
func (p *Process) Alive() error {
	now, err := identify(p.PID)
	if err == nil && !p.Same(now) {
		err = errors.New("firecracker: the process is another one now")
	}
	return err
}

// Jailed reports whether the process has another root directory than we.
func (p *Process) Jailed() (bool, error) {
	theirs, err := os.Stat(procPath(p.PID, "root"))
	if err != nil {
		return false, err
	}
	ours, err := os.Stat("/")
	return err == nil && !os.SameFile(theirs, ours), err
}

// apiThread is what Firecracker calls the thread that answers at its socket, and does nothing else.
const apiThread = "fc_api"

// API is a moment of the life of the thread that answers at Firecracker's socket.
type API struct {
	Thread   int    `json:"thread"`
	Switches uint64 `json:"switches"` // how often it has given up its processor
}

// ErrBusy is the error for a thread that does something just now.
var ErrBusy = errors.New("the API is in use")

// API looks at the thread that answers at the socket. It sleeps while there is no connection, and no request on one; who wakes it makes it count. So two equal
// moments mean that Firecracker was asked for nothing in between, by anybody.
func (p *Process) API() (API, error) {
	names, err := filepath.Glob(procPath(p.PID, "task", "*", "comm"))
	if err != nil {
		return API{}, err
	}
	var found []string
	for _, name := range names {
		if comm, err := os.ReadFile(name); err == nil && strings.TrimSpace(string(comm)) == apiThread {
			found = append(found, filepath.Dir(name))
		}
	}
	if len(found) != 1 {
		return API{}, fmt.Errorf("firecracker: process %d has %d threads called %s", p.PID, len(found), apiThread)
	}
	var a API
	if a.Thread, err = strconv.Atoi(filepath.Base(found[0])); err != nil {
		return API{}, err
	}
	status, err := os.ReadFile(filepath.Join(found[0], "status"))
	if err != nil {
		return API{}, err
	}
	state, counters := "", 0
	for line := range strings.Lines(string(status)) {
		name, value, _ := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		switch name {
		case "State":
			state = value
		case "voluntary_ctxt_switches", "nonvoluntary_ctxt_switches":
			n, err := strconv.ParseUint(value, 10, 64)
			if err != nil {
				return API{}, err
			}
			a.Switches += n
			counters++
		}
	}
	if counters != 2 {
		return API{}, errors.New("firecracker: the kernel does not count a thread's switches")
	}
	if !strings.HasPrefix(state, "S") {
		return API{}, ErrBusy
	}
	return a, nil
}

func procPath(pid int, names ...string) string {
	return filepath.Join(append([]string{"/proc", strconv.Itoa(pid)}, names...)...)
}
