// Package firecracker speaks the API of a Firecracker process, with which a microVM is paused, resumed and asked for a snapshot, and
// knows what can be told of that process and of the files that it writes
// (https://github.com/firecracker-microvm/firecracker, src/firecracker/swagger/firecracker.yaml).
//
// Start with [New].
package firecracker

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// maxAnswer is how long an answer may be, in bytes.
const maxAnswer = 1 << 20

// States of a microVM.
const (
	NotStarted = "Not started"
	Running    = "Running"
	Paused     = "Paused"
)

// A Client asks one Firecracker process, over one connection at a time. One goroutine uses it. It speaks HTTP by itself, since it has to know when the
// connection is closed: Firecracker's side of that counts as activity (see [Process.API]).
type Client struct {
	path string
	peer *Process // the first that answered: a later one is another microVM
	conn net.Conn // nil for none
}

// New returns a client of the Firecracker that listens on the Unix socket path. It connects when it is asked for something.
func New(path string) *Client { return &Client{path: path} }

// Close closes the connection. The client connects again when it is used.
func (c *Client) Close() {
	if c.conn != nil {
		c.conn.Close()
		c.conn = nil
	}
}

// A Fault is Firecracker's refusal of a request.
type Fault struct {
	Status  int    // of HTTP
	Message string // in Firecracker's words; may be empty
}

func (f *Fault) Error() string {
	if f.Message == "" {
		return fmt.Sprintf("it answers %d %s", f.Status, http.StatusText(f.Status))
	}
	return f.Message
}

// Instance is what Firecracker says of its microVM.
type Instance struct {
	ID      string `json:"id"`
	State   string `json:"state"` // NotStarted, Running or Paused
	Version string `json:"vmm_version"`
}

// Machine is how a microVM is configured.
type Machine struct {
	MemoryMiB  int64 `json:"mem_size_mib"` // without what was plugged in later
	TrackDirty bool  `json:"track_dirty_pages"`
}

// Instance returns what Firecracker says of its microVM.
func (c *Client) Instance(ctx context.Context) (i Instance, err error) {
	if err = c.ask(ctx, "GET", "/", nil, &i); err == nil && i.State != NotStarted && i.State != Running && i.State != Paused {
		err = fmt.Errorf("GET /: it is in a state %q, which Firecracker does not have", i.State)
	}
	return i, err
}

// Machine returns how the microVM is configured.
func (c *Client) Machine(ctx context.Context) (m Machine, err error) {
	return m, c.ask(ctx, "GET", "/machine-config", nil, &m)
}

// SetState pauses or resumes the microVM: "Paused" or "Resumed".
func (c *Client) SetState(ctx context.Context, state string) error {
	return c.ask(ctx, "PATCH", "/vm", map[string]string{"state": state}, nil)
}

// A Snapshot says what Firecracker is to write, and where. The paths are Firecracker's, which may live in a root of its own.
type Snapshot struct {
	Type   string `json:"snapshot_type"` // Full or Diff
	State  string `json:"snapshot_path"`
	Memory string `json:"mem_file_path"` // where a file of the memory's size exists, Diff writes into it
}

// Kinds of snapshots.
const (
	Full = "Full" // the whole memory
	Diff = "Diff" // what was written to since the last snapshot of either kind; the rest of the file is holes
)

// Create has Firecracker write a snapshot of the paused microVM. When ctx ends first, Firecracker goes on with it, and answers nobody until it is done.
func (c *Client) Create(ctx context.Context, s Snapshot) error {
	return c.ask(ctx, "PUT", "/snapshot/create", s, nil)
}

// Peer returns the process at the other end, and connects to it if need be.
func (c *Client) Peer(ctx context.Context) (*Process, error) {
	if c.peer == nil {
		if err := c.connect(ctx); err != nil {
			return nil, err
		}
	}
	return c.peer, nil
}

var errOther = errors.New("another process answers at its socket now")

func (c *Client) connect(ctx context.Context) error {
	if c.conn != nil {
		return nil
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", c.path)
	if err != nil {
		return err
	}
	peer := processOf(conn.(*net.UnixConn))
	if c.peer != nil && !c.peer.Same(peer) && c.peer.Known() {
		conn.Close()
		return errOther
	}
	c.peer, c.conn = peer, conn
	return nil
}

// ask sends a request, and reads the answer into result unless that is nil.
func (c *Client) ask(ctx context.Context, method, path string, body, result any) error {
	err := c.exchange(ctx, method, path, body, result)
	if cause := ctx.Err(); err != nil && cause != nil {
		err = cause
	}
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	return nil
}

func (c *Client) exchange(ctx context.Context, method, path string, body, result any) (err error) {
	if err := c.connect(ctx); err != nil {
		return err
	}
	// What comes after an answer that was not read to its end would be taken for the next one's.
	whole := false
	defer func() {
		if !whole {
			c.Close()
		}
	}()
	conn := c.conn
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	var content io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return err
		}
		content = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://localhost"+path, content)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", "application/json")
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if err := req.Write(conn); err != nil {
		return err
	}
	// The header, too, is bounded by this.
	in := bufio.NewReader(io.LimitReader(conn, maxAnswer))
	resp, err := http.ReadResponse(in, req)
	if err != nil {
		return notHTTP(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return notHTTP(err)
	}
	whole = in.Buffered() == 0 && !resp.Close && stop()
	if resp.StatusCode/100 != 2 {
		var fault struct {
			Message string `json:"fault_message"`
		}
		json.Unmarshal(answer, &fault) // without one, the status says enough
		return &Fault{resp.StatusCode, fault.Message}
	}
	if result == nil {
		return nil
	}
	if err := json.Unmarshal(answer, result); err != nil {
		return fmt.Errorf("its answer is not what Firecracker's API has: %w", err)
	}
	return nil
}

func notHTTP(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("it closed the connection before its answer was whole: %w", io.ErrUnexpectedEOF)
	}
	return fmt.Errorf("its answer is not one of Firecracker's API: %w", err)
}
