package guest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// A console keeps what a guest prints, line by line.
type console struct {
	pipe *os.File  // read by follow alone
	log  io.Writer // may be nil

	mu      sync.Mutex
	lines   []string      // not yet looked at by waitFor
	partial []byte        // the line that has no end yet
	count   int           // of the last "count N"
	ended   bool          // nothing comes any more
	changed chan struct{} // closed, and made anew, at every change
	caught  []chan struct{}
}

func newConsole(pipe *os.File, log io.Writer) *console {
	c := &console{pipe: pipe, log: log, changed: make(chan struct{})}
	go c.follow()
	return c
}

// follow reads the pipe until it ends.
func (c *console) follow() {
	buf := make([]byte, 4096)
	for {
		n, err := c.pipe.Read(buf)
		c.add(buf[:n])
		if errors.Is(err, os.ErrDeadlineExceeded) {
			err = c.catchUp(buf)
		}
		if err != nil {
			c.mu.Lock()
			c.ended = true
			c.announce()
			c.mu.Unlock()
			return
		}
	}
}

// close waits until all is read, which takes until no process writes to the console any more.
func (c *console) close() {
	_ = c.wait(context.Background(), func() bool { return false })
	c.pipe.Close()
}

func (c *console) add(data []byte) {
	if len(data) == 0 {
		return
	}
	if c.log != nil {
		_, _ = c.log.Write(data) // a guest does not stop for a broken log
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.partial = append(c.partial, data...)
	for {
		line, rest, found := bytes.Cut(c.partial, []byte("\n"))
		if !found {
			break
		}
		text := strings.TrimSuffix(string(line), "\r")
		c.lines = append(c.lines, text)
		if number, ok := strings.CutPrefix(text, "count "); ok {
			if n, err := strconv.Atoi(number); err == nil {
				c.count = n
			}
		}
		c.partial = rest
	}
	c.announce()
}

// announce wakes all who wait. The caller holds mu.
func (c *console) announce() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// wait calls done, under mu, now and at every change until it returns true. It returns io.EOF when the console ends before.
func (c *console) wait(ctx context.Context, done func() bool) error {
	for {
		c.mu.Lock()
		ok, ended, changed := done(), c.ended, c.changed
		c.mu.Unlock()
		switch {
		case ok:
			return nil
		case ended:
			return io.EOF
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// waitFor takes lines in order until one matches, and returns that. match is called without mu: it may ask the console.
func (c *console) waitFor(ctx context.Context, match func(string) bool) (line string, err error) {
	for {
		err := c.wait(ctx, func() bool {
			if len(c.lines) == 0 {
				return false
			}
			line, c.lines = c.lines[0], c.lines[1:]
			return true
		})
		if err != nil {
			return "", err
		}
		if match(line) {
			return line, nil
		}
	}
}

// lineEnd reports whether the console stands at the end of a line, once all that was in the pipe when it was called
// has been read.
func (c *console) lineEnd(ctx context.Context) (bool, error) {
	caught := make(chan struct{})
	c.mu.Lock()
	c.caught = append(c.caught, caught)
	// An expired deadline is what gets follow out of its read.
	err := c.pipe.SetReadDeadline(time.Unix(1, 0))
	c.mu.Unlock()
	if err != nil {
		return false, err
	}
	isCaught := func() bool {
		select {
		case <-caught:
			return true
		default:
			return false
		}
	}
	if err := c.wait(ctx, isCaught); err != nil {
		return false, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.partial) == 0, nil
}

// waitLine waits for the end of the line that the console is in.
func (c *console) waitLine(ctx context.Context) error {
	return c.wait(ctx, func() bool { return len(c.partial) == 0 })
}

// catchUp is follow's part of lineEnd: it empties the pipe without waiting for more.
func (c *console) catchUp(buf []byte) error {
	c.mu.Lock()
	caught := c.caught
	c.caught = nil
	err := c.pipe.SetReadDeadline(time.Time{})
	c.mu.Unlock()
	if err != nil {
		return err
	}
	raw, err := c.pipe.SyscallConn()
	if err != nil {
		return err
	}
	for more := true; more; {
		var n int
		var readErr error
		// The pipe is non-blocking, and returning true takes even EAGAIN for an answer.
		if err := raw.Read(func(fd uintptr) bool {
			n, readErr = syscall.Read(int(fd), buf)
			return true
		}); err != nil {
			return err
		}
		switch {
		case n > 0:
			c.add(buf[:n])
		case errors.Is(readErr, syscall.EINTR):
		default: // empty, or at its end, which the next read will tell
			more = false
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, done := range caught {
		close(done)
	}
	c.announce()
	return nil
}

func (c *console) lastCount() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.count
}
