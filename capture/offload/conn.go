package offload

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Conn is one end of a connection. It is for one goroutine, but for a second one that reads while nothing else does, and for Close.
type Conn struct {
	c *net.UnixConn
}

// NewConn returns the protocol over c, which Close closes. Who is at the other end is not looked at.
func NewConn(c *net.UnixConn) *Conn { return &Conn{c} }

// Close ends the connection, and whatever reads or writes.
func (c *Conn) Close() error { return c.c.Close() }

// Interrupt makes the reads that run, and all later ones, fail; Resume lets them work again.
func (c *Conn) Interrupt() { _ = c.c.SetReadDeadline(time.Unix(1, 0)) }

// Resume undoes Interrupt.
func (c *Conn) Resume() { _ = c.c.SetReadDeadline(time.Time{}) }

// answerTimeout is how long the other end may take to accept the 16 bytes of an answer.
const answerTimeout = 10 * time.Second

// read fills b. Nothing beyond it is taken from the socket: a file that comes with what follows would be lost.
func (c *Conn) read(b []byte) error {
	n, err := io.ReadFull(c.c, b)
	if n > 0 && errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("offload: the connection ended in the middle of a message: %w", err)
	}
	return err
}

// ReadRequest reads the next request's header. The error is io.EOF where the other end has closed the connection, and nothing was cut off.
func (c *Conn) ReadRequest() (Request, error) {
	var b [headerSize]byte
	if err := c.read(b[:]); err != nil {
		return Request{}, err
	}
	return ParseRequest(b[:])
}

// ReadDocument reads the payload of a SendConfig or a SendState. The memory it takes grows with what comes, whatever length was announced.
func (c *Conn) ReadDocument(r Request) ([]byte, error) {
	if r.Length > MaxDocument {
		return nil, fmt.Errorf("offload: %w: a %s of %d bytes", ErrProtocol, r.Command, r.Length)
	}
	var b bytes.Buffer
	if n, err := io.Copy(&b, io.LimitReader(c.c, int64(r.Length))); err != nil {
		return nil, err
	} else if uint64(n) < r.Length {
		return nil, fmt.Errorf("offload: the connection ended after %d of %d bytes of the %s: %w", n, r.Length, r.Command, io.ErrUnexpectedEOF)
	}
	return b.Bytes(), nil
}

// ReadRange reads the payload of a PageFault.
func (c *Conn) ReadRange() (Range, error) {
	var b [rangeSize]byte
	if err := c.read(b[:]); err != nil {
		return Range{}, cutOff(err)
	}
	return ParseRange(b[:])
}

// cutOff is the error of a payload that did not come.
func cutOff(err error) error {
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("offload: the connection ended before a payload: %w", io.ErrUnexpectedEOF)
	}
	return err
}

// ReadFile reads the payload of a SendMemoryFile: a slot, and the file that is its memory, which the caller closes.
func (c *Conn) ReadFile() (slot uint32, f *os.File, err error) {
	var b [slotSize]byte
	control := make([]byte, unix.CmsgSpace(16*4)) // more files than there may be, so that each can be closed
	n, cn, flags, _, err := c.c.ReadMsgUnix(b[:], control)
	files, ferr := received(control[:cn])
	defer func() {
		if err != nil {
			for _, f := range files {
				f.Close()
			}
		}
	}()
	if err == nil && n == 0 {
		err = io.EOF
	}
	if err := errors.Join(err, ferr); err != nil {
		return 0, nil, cutOff(err)
	}
	if n < len(b) {
		if err := c.read(b[n:]); err != nil {
			return 0, nil, cutOff(err)
		}
	}
	slot = binary.LittleEndian.Uint32(b[:])
	if len(files) != 1 || flags&unix.MSG_CTRUNC != 0 {
		return 0, nil, fmt.Errorf("offload: %w: with the memory of slot %d came %d files, not one", ErrProtocol, slot, len(files))
	}
	return slot, files[0], nil
}

// received returns the files in control messages, with whatever it found before an error.
func received(control []byte) (files []*os.File, err error) {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return nil, fmt.Errorf("offload: %w", err)
	}
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			continue // of another kind
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "guest memory"))
		}
	}
	return files, nil
}

// Answer answers the last request. An answer that nobody takes is an error after some seconds.
func (c *Conn) Answer(ok bool) error {
	if err := c.c.SetWriteDeadline(time.Now().Add(answerTimeout)); err != nil {
		return err
	}
	_, err := c.c.Write(appendAnswer(nil, ok))
	return errors.Join(err, c.c.SetWriteDeadline(time.Time{}))
}

// Ask sends a request with its payload and waits for the answer: ErrRefused is one.
func (c *Conn) Ask(command Command, payload []byte) error {
	if err := c.Send(command, payload); err != nil {
		return err
	}
	return c.answered(command)
}

// Send sends a request with its payload. A Start names the Version.
func (c *Conn) Send(command Command, payload []byte) error {
	r := Request{Command: command, Length: uint64(len(payload))}
	if _, err := c.c.Write(append(r.Append(make([]byte, 0, headerSize+len(payload))), payload...)); err != nil {
		return fmt.Errorf("offload: send a %s: %w", command, err)
	}
	return nil
}

// answered waits for the answer to a request.
func (c *Conn) answered(command Command) error {
	var b [headerSize]byte
	err := c.read(b[:])
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	if err == nil {
		err = parseAnswer(b[:])
	}
	if err != nil {
		return fmt.Errorf("offload: answer to a %s: %w", command, err)
	}
	return nil
}

// AskFile sends the file that is a slot's memory, and waits for the answer. The file stays the caller's, and is shared with the other end.
func (c *Conn) AskFile(slot uint32, f *os.File) error {
	if _, err := c.c.Write(Request{Command: SendMemoryFile, Length: slotSize}.Append(nil)); err != nil {
		return fmt.Errorf("offload: send a %s: %w", SendMemoryFile, err)
	}
	n, _, err := c.c.WriteMsgUnix(binary.LittleEndian.AppendUint32(nil, slot), unix.UnixRights(int(f.Fd())), nil)
	if err == nil && n != slotSize {
		err = io.ErrShortWrite
	}
	if err != nil {
		return fmt.Errorf("offload: send the memory of slot %d: %w", slot, err)
	}
	return c.answered(SendMemoryFile)
}

// SendRole says what a connection is for that is not the first one.
func (c *Conn) SendRole(role Role) error {
	if _, err := c.c.Write(binary.LittleEndian.AppendUint16(nil, uint16(role))); err != nil {
		return fmt.Errorf("offload: %w", err)
	}
	return nil
}

// While runs f, and interrupts it when ctx ends: its reads at once, and a write after some seconds, so that there is time to say goodbye. Then the error
// is that of ctx.
func (c *Conn) While(ctx context.Context, f func() error) error {
	interrupted := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		c.Interrupt()
		_ = c.c.SetWriteDeadline(time.Now().Add(answerTimeout))
		close(interrupted)
	})
	err := f()
	if !stop() {
		<-interrupted
		_ = c.c.SetDeadline(time.Time{})
		if err != nil {
			return context.Cause(ctx)
		}
	}
	return err
}

// wholeInt64 reports whether a+b is a number that an int64 can be.
func wholeInt64(a, b uint64) bool { return a <= math.MaxInt64 && b <= math.MaxInt64-a }
