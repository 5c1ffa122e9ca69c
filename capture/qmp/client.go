// Package qmp speaks QEMU's machine protocol, with which a QEMU is paused, resumed and asked for its state
// (https://www.qemu.org/docs/master/interop/qmp-spec.html).
package qmp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
)

// A Client is a session: one JSON object a command and one a reply, with events in between. It is safe for concurrent use.
type Client struct {
	conn *net.UnixConn

	mu      sync.Mutex
	last    int                // id of the last command sent
	waiting map[int]chan reply // by id; a reply that nobody waits for any more is dropped
	err     error              // why the connection ended
	ended   chan struct{}      // closed when it has
}

type reply struct {
	ID     *int            `json:"id"`
	Return json.RawMessage `json:"return"`
	Error  *Error          `json:"error"`
}

// An Error is QEMU's refusal of a command.
type Error struct {
	Class       string `json:"class"`
	Description string `json:"desc"`
}

func (e *Error) Error() string { return e.Description }

// Dial starts a session with the QEMU that listens on the Unix socket path. QEMU serves one at a time: another one is a reason to wait.
func Dial(ctx context.Context, path string) (*Client, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("qmp: %w", err)
	}
	return New(ctx, conn.(*net.UnixConn))
}

// New starts a session on conn, which is the client's from now on.
func New(ctx context.Context, conn *net.UnixConn) (*Client, error) {
	q := &Client{conn: conn, waiting: map[int]chan reply{}, ended: make(chan struct{})}
	go q.receive()
	// QEMU's greeting comes first, but nothing in it is needed.
	if err := q.Run(ctx, "qmp_capabilities", nil, nil); err != nil {
		q.Close()
		return nil, err
	}
	return q, nil
}

// Close ends the session. Commands that wait get an error.
func (q *Client) Close() {
	q.conn.Close()
	<-q.ended
}

// Run executes a command and decodes what it returns into result, unless that is nil. When ctx ends first, QEMU may yet
// execute the command.
func (q *Client) Run(ctx context.Context, command string, arguments, result any) error {
	return q.RunWithFile(ctx, command, arguments, nil, result)
}

// RunWithFile is Run for a command that comes with an open file, which stays the caller's.
func (q *Client) RunWithFile(ctx context.Context, command string, arguments any, file *os.File, result any) error {
	answer, err := q.exchange(ctx, command, arguments, file)
	if err == nil && answer.Error != nil {
		err = answer.Error
	}
	if err == nil && result != nil {
		err = json.Unmarshal(answer.Return, result)
	}
	if err != nil {
		return fmt.Errorf("qmp %s: %w", command, err)
	}
	return nil
}

func (q *Client) exchange(ctx context.Context, command string, arguments any, file *os.File) (reply, error) {
	if err := ctx.Err(); err != nil {
		return reply{}, err
	}
	answer := make(chan reply, 1)
	id, err := q.send(command, arguments, file, answer)
	if err != nil {
		return reply{}, err
	}
	select {
	case got := <-answer:
		return got, nil
	case <-ctx.Done():
		q.mu.Lock()
		delete(q.waiting, id)
		q.mu.Unlock()
		return reply{}, ctx.Err()
	case <-q.ended:
		return reply{}, q.err
	}
}

func (q *Client) send(command string, arguments any, file *os.File, answer chan reply) (id int, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.last++
	message, err := json.Marshal(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
		ID        int    `json:"id"`
	}{command, arguments, q.last})
	if err != nil {
		return 0, err
	}
	var rights []byte
	if file != nil {
		rights = syscall.UnixRights(int(file.Fd()))
	}
	q.waiting[q.last] = answer
	if _, _, err := q.conn.WriteMsgUnix(message, rights, nil); err != nil {
		delete(q.waiting, q.last)
		return 0, errors.Join(ErrEnded, err)
	}
	return q.last, nil
}

// receive hands replies to those who wait for them until the connection ends.
func (q *Client) receive() {
	defer close(q.ended)
	messages := json.NewDecoder(q.conn)
	for {
		var got reply
		if err := messages.Decode(&got); err != nil {
			q.err = errors.Join(ErrEnded, err)
			return
		}
		if got.ID == nil {
			continue // the greeting, or an event
		}
		q.mu.Lock()
		answer := q.waiting[*got.ID]
		delete(q.waiting, *got.ID)
		q.mu.Unlock()
		if answer != nil {
			answer <- got
		}
	}
}

// ErrEnded is the error of a session whose connection was closed.
var ErrEnded = errors.New("qemu closed the connection")
