package control

import (
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

// dialTimeout is how long the process that answers may take to accept a connection.
const dialTimeout = 10 * time.Second

// Caller asks the process that holds a store. It is safe for concurrent use.
type Caller struct {
	http  http.Client
	kinds Kinds
}

// Dial returns a caller of the process that holds the store in dir, and answers at its socket: ErrNobody if there is none. It must be closed.
func Dial(ctx context.Context, dir string, kinds Kinds) (*Caller, error) {
	first, err := connect(ctx, dir)
	if err != nil {
		return nil, err
	}
	waiting := make(chan net.Conn, 1)
	waiting <- first
	c := &Caller{kinds: kinds}
	c.http.Transport = &http.Transport{
		DisableCompression: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			select {
			case conn := <-waiting:
				return conn, nil
			default:
			}
			ctx, cancel := context.WithTimeout(ctx, dialTimeout)
			defer cancel()
			return connect(ctx, dir)
		},
	}
	return c, nil
}

// Close lets go of the connections.
func (c *Caller) Close() { c.http.CloseIdleConnections() }

// Call asks for an operation: params is its request's body, nil for none, and result points to what takes its result, nil for nobody.
// path is that of the request, with its query. events is told what happens meanwhile; nil is nobody. Where the operation failed,
// the error is an *Error; result is set even so if it did what it was to do before.
func (c *Caller) Call(ctx context.Context, method, path string, params, result any, events *Events) error {
	var body io.Reader
	if params != nil {
		b, err := json.Marshal(params)
		if err != nil {
			return fmt.Errorf("store: encode a request: %w", err)
		}
		body = bytes.NewReader(b)
	}
	r, err := http.NewRequestWithContext(ctx, method, "http://store"+path, body)
	if err != nil {
		return fmt.Errorf("store: control socket: %w", err)
	}
	if params != nil {
		r.Header.Set("Content-Type", JSON)
	}
	if events != nil {
		r.Header.Set("Accept", Lines)
	}
	answer, err := c.http.Do(r)
	if err != nil {
		return c.broken(ctx, err)
	}
	defer answer.Body.Close()
	last, err := c.read(answer, events)
	if err != nil {
		return c.broken(ctx, err)
	}
	if last.Result != nil && result != nil {
		if err := json.Unmarshal(last.Result, result); err != nil {
			return fmt.Errorf("store: control socket: decode the answer: %w", err)
		}
	}
	if last.Failure != nil {
		return c.kinds.error(last.Failure)
	}
	return nil
}

// broken is the error of a conversation that did not come to its end.
func (c *Caller) broken(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = errors.New("it ended")
	}
	return fmt.Errorf("store: the process that holds the store gave no answer: %w", err)
}

// read reads an answer up to its last event.
func (c *Caller) read(answer *http.Response, events *Events) (*Event, error) {
	d := json.NewDecoder(answer.Body)
	if answer.Header.Get("Content-Type") != Lines {
		if answer.StatusCode != http.StatusOK {
			e := new(Event)
			if err := d.Decode(e); err != nil || e.Failure == nil {
				return nil, fmt.Errorf("it answers with the status %s", answer.Status)
			}
			return e, nil
		}
		e := new(Event)
		return e, d.Decode(&e.Result)
	}
	for {
		e := new(Event)
		if err := d.Decode(e); err != nil {
			return nil, err
		}
		switch {
		case e.last():
			return e, nil
		case e.Progress != nil:
			events.Report(*e.Progress)
		case e.Note != "":
			events.Say(e.Note)
		case e.Warning != "":
			events.Alarm(e.Warning)
		}
	}
}
