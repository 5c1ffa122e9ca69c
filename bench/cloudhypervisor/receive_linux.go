package cloudhypervisor

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"
)

// Receiver plays vm.receive-migration with receiver_url=unix:socket. It takes one guest.
type Receiver struct {
	l *net.UnixListener
}

// Listen makes the socket.
func Listen(socket string) (*Receiver, error) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		return nil, err
	}
	return &Receiver{l}, nil
}

// Close removes the socket.
func (r *Receiver) Close() error { return r.l.Close() }

// ReceiveOptions are the choices of a Receive.
type ReceiveOptions struct {
	Postcopy bool // memory_mode=postcopy
	// NoPrefault asks for nothing but what the guest needs. Cloud Hypervisor always fetches the rest, too.
	NoPrefault bool
	Touch      []uint64 // addresses of pages that the restore of devices needs
	Refuse     uint16   // answers this command with an error; 0 for none
	// FaultTimeout is how long the connection for page faults may take; 0 is 30 seconds.
	FaultTimeout time.Duration
}

// Received is a guest that was handed over.
type Received struct {
	Regions       []Region
	Config, State []byte
	Resumed       bool // it was to run
	files         map[uint32]*os.File
	memory        *memory // that is filled on demand; nil for none
}

// ErrAborted: the sender gave the guest up, or something failed.
var ErrAborted = errors.New("there is no guest")

// Receive takes the guest that the next connection hands over.
func (r *Receiver) Receive(opts ReceiveOptions) (_ *Received, err error) {
	c, err := r.l.AcceptUnix()
	if err != nil {
		return nil, err
	}
	defer c.Close()
	g := &Received{files: make(map[uint32]*os.File)}
	defer func() {
		if err != nil {
			err = fmt.Errorf("%w: %w", ErrAborted, err)
			g.Close()
		}
	}()
	faults := make(chan *net.UnixConn, 1)
	allowed := []uint16{CmdStart}
	for {
		command, version, length, err := readHeader(c)
		if err != nil {
			return nil, err
		}
		if command == CmdAbandon {
			return nil, errors.Join(errors.New("it was abandoned"), answer(c, nil))
		}
		ok := false
		for _, a := range allowed {
			ok = ok || a == command
		}
		switch {
		case !ok:
			err = fmt.Errorf("command %d out of order", command)
		case command == opts.Refuse:
			_, _ = io.CopyN(io.Discard, c, int64(length))
			err = errors.New("refused")
		case command == CmdStart:
			if version != 0 || length != 0 {
				err = fmt.Errorf("version %d, %d bytes", version, length)
			}
			allowed = []uint16{CmdMemoryFd, CmdConfig}
		case command == CmdMemoryFd:
			var slot uint32
			var f *os.File
			if slot, f, err = receiveFile(c); err == nil {
				g.files[slot] = f
			}
		case command == CmdConfig:
			g.Config = make([]byte, length)
			if _, err = io.ReadFull(c, g.Config); err == nil {
				err = g.configure()
			}
			go acceptFaults(r.l, faults)
			allowed = []uint16{CmdState}
		case command == CmdState:
			if opts.Postcopy {
				if err = g.serve(faults, opts); err != nil {
					_, _ = io.CopyN(io.Discard, c, int64(length))
					break
				}
			} else {
				// Nothing comes of a connection for page faults then.
				go func() {
					if c := <-faults; c != nil {
						c.Close()
					}
				}()
			}
			g.State = make([]byte, length)
			_, err = io.ReadFull(c, g.State)
			allowed = []uint16{CmdComplete, CmdCompletePaused}
		}
		if werr := answer(c, err); werr != nil || err != nil {
			return nil, errors.Join(err, werr)
		}
		if command == CmdComplete || command == CmdCompletePaused {
			g.Resumed = command == CmdComplete
			return g, nil
		}
	}
}

// configure finds the guest's memory.
func (g *Received) configure() error {
	var config struct {
		Manager struct {
			Mappings []Region `json:"guest_ram_mappings"`
		} `json:"memory_manager_data"`
	}
	if err := json.Unmarshal(g.Config, &config); err != nil {
		return err
	}
	g.Regions = config.Manager.Mappings
	for _, r := range g.Regions {
		f := g.files[r.Slot]
		if f == nil {
			return fmt.Errorf("no memory of slot %d", r.Slot)
		}
		info, err := f.Stat()
		if err != nil {
			return err
		}
		if uint64(info.Size()) < r.FileOffset+r.Size {
			return fmt.Errorf("the memory of slot %d has %d bytes", r.Slot, info.Size())
		}
	}
	if len(g.files) != len(g.Regions) {
		return fmt.Errorf("%d files for %d slots", len(g.files), len(g.Regions))
	}
	return nil
}

// acceptFaults takes the next connection that says it is for page faults.
func acceptFaults(l *net.UnixListener, faults chan<- *net.UnixConn) {
	for {
		c, err := l.AcceptUnix()
		if err != nil {
			close(faults)
			return
		}
		b := make([]byte, 2)
		_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := io.ReadFull(c, b); err == nil && binary.LittleEndian.Uint16(b) == roleFault {
			_ = c.SetReadDeadline(time.Time{})
			faults <- c
			return
		}
		c.Close()
	}
}

// serve fills the memory on demand from now on.
func (g *Received) serve(faults <-chan *net.UnixConn, opts ReceiveOptions) error {
	timeout := opts.FaultTimeout
	if timeout == 0 {
		timeout = 30 * time.Second
	}
	var c *net.UnixConn
	select {
	case c = <-faults:
	case <-time.After(timeout):
	}
	if c == nil {
		return errors.New("no connection for page faults")
	}
	m, err := newMemory(g, c, !opts.NoPrefault, opts.Touch)
	if err != nil {
		return err
	}
	g.memory = m
	return nil
}

// Close ends the guest.
func (g *Received) Close() {
	if g.memory != nil {
		g.memory.close()
	}
	for _, f := range g.files {
		f.Close()
	}
}

// Contents returns what the file of a region holds, whether the guest has asked for it or not.
func (g *Received) Contents(r *Region) ([]byte, error) {
	b := make([]byte, r.Size)
	_, err := g.files[r.Slot].ReadAt(b, int64(r.FileOffset))
	return b, err
}

// File returns the file that is the memory of a region.
func (g *Received) File(r *Region) *os.File { return g.files[r.Slot] }
