package guest

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

// A qmpClient speaks QEMU's machine protocol: one JSON object a command and one a reply, with events in between
// (https://www.qemu.org/docs/master/interop/qmp-spec.html).
type qmpClient struct {
	conn *net.UnixConn

	mu      sync.Mutex
	last    int                   // id of the last command sent
	waiting map[int]chan qmpReply // by id; a reply that nobody waits for any more is dropped
	err     error                 // why the connection ended
	ended   chan struct{}         // closed when it has
}

type qmpReply struct {
	ID     *int            `json:"id"`
	Return json.RawMessage `json:"return"`
	Error  *qmpError       `json:"error"`
}

// A qmpError is QEMU's refusal of a command.
type qmpError struct {
	Class       string `json:"class"`
	Description string `json:"desc"`
}

func (e *qmpError) Error() string { return e.Description }

// newQMPClient starts a session on conn, which is the client's from now on.
func newQMPClient(ctx context.Context, conn *net.UnixConn) (*qmpClient, error) {
	q := &qmpClient{conn: conn, waiting: map[int]chan qmpReply{}, ended: make(chan struct{})}
	go q.receive()
	// QEMU's greeting comes first, but nothing in it is needed.
	if err := q.run(ctx, "qmp_capabilities", nil, nil); err != nil {
		q.close()
		return nil, err
	}
	return q, nil
}

// close ends the session. Commands that wait get an error.
func (q *qmpClient) close() {
	q.conn.Close()
	<-q.ended
}

// run executes a command and decodes what it returns into result, unless that is nil. When ctx ends first, QEMU may yet
// execute the command.
func (q *qmpClient) run(ctx context.Context, command string, arguments, result any) error {
	return q.runWithFile(ctx, command, arguments, nil, result)
}

// runWithFile is run for a command that comes with an open file, which stays the caller's.
func (q *qmpClient) runWithFile(ctx context.Context, command string, arguments any, file *os.File, result any) error {
	reply, err := q.exchange(ctx, command, arguments, file)
	if err == nil && reply.Error != nil {
		err = reply.Error
	}
	if err == nil && result != nil {
		err = json.Unmarshal(reply.Return, result)
	}
	if err != nil {
		return fmt.Errorf("qmp %s: %w", command, err)
	}
	return nil
}

func (q *qmpClient) exchange(ctx context.Context, command string, arguments any, file *os.File) (qmpReply, error) {
	answer := make(chan qmpReply, 1)
	id, err := q.send(command, arguments, file, answer)
	if err != nil {
		return qmpReply{}, err
	}
	select {
	case reply := <-answer:
		return reply, nil
	case <-ctx.Done():
		q.mu.Lock()
		delete(q.waiting, id)
		q.mu.Unlock()
		return qmpReply{}, ctx.Err()
	case <-q.ended:
		return qmpReply{}, q.err
	}
}

func (q *qmpClient) send(command string, arguments any, file *os.File, answer chan qmpReply) (id int, err error) {
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
		return 0, errors.Join(errConnectionEnded, err)
	}
	return q.last, nil
}

// receive hands replies to those who wait for them until the connection ends.
func (q *qmpClient) receive() {
	defer close(q.ended)
	messages := json.NewDecoder(q.conn)
	for {
		var reply qmpReply
		if err := messages.Decode(&reply); err != nil {
			q.err = errors.Join(errConnectionEnded, err)
			return
		}
		if reply.ID == nil {
			continue // the greeting, or an event
		}
		q.mu.Lock()
		answer := q.waiting[*reply.ID]
		delete(q.waiting, *reply.ID)
		q.mu.Unlock()
		if answer != nil {
			answer <- reply
		}
	}
}

var errConnectionEnded = errors.New("qemu closed the connection")

// socketPair returns two connected stream sockets, the second as a file to be inherited by a child.
func socketPair() (*net.UnixConn, *os.File, error) {
	// There is no portable way to make them close-on-exec at once; the lock keeps other children from being born between.
	syscall.ForkLock.RLock()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err == nil {
		syscall.CloseOnExec(fds[0])
		syscall.CloseOnExec(fds[1])
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "qmp"), os.NewFile(uintptr(fds[1]), "qmp")
	conn, err := net.FileConn(ours)
	ours.Close() // FileConn has made its own copy
	if err != nil {
		theirs.Close()
		return nil, nil, err
	}
	return conn.(*net.UnixConn), theirs, nil
}
