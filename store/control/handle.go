package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"
	"sync"
	"time"
)

// maxRequest is how long a request's body may be, in bytes: a dirty bitmap of a guest of 4 TiB has 128 MiB.
const maxRequest = 256 << 20

// progressEvery is how often progress is told at most.
const progressEvery = 100 * time.Millisecond

var (
	// ErrRequest: a request that cannot be understood.
	ErrRequest = errors.New("bad request")
	// ErrNoSuch: a request for something that the process does not do.
	ErrNoSuch = errors.New("no such request")
)

// Handle returns a handler that reads a request's body as P, runs an operation, and answers with its result, or its failure. Of a
// request without a body, P is zero.
// While the operation runs, who accepts Lines is told of its events. The operation's context ends when the other end goes away.
func Handle[P, R any](kinds Kinds, run func(ctx context.Context, r *http.Request, params P, events *Events) (R, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a := &answer{w: w, kinds: kinds, lines: strings.Contains(r.Header.Get("Accept"), Lines)}
		var params P
		if err := readParams(w, r, &params); err != nil {
			a.end(nil, err)
			return
		}
		result, err := run(r.Context(), r, params, &Events{Progress: a.progress, Note: a.note, Warn: a.warn})
		if cause := context.Cause(r.Context()); cause != nil && errors.Is(err, context.Canceled) && !errors.Is(cause, context.Canceled) {
			err = cause
		}
		encoded, eerr := json.Marshal(result)
		if err == nil && eerr != nil {
			err = fmt.Errorf("encode the result: %w", eerr)
		}
		if string(encoded) == "null" {
			encoded = nil
		}
		a.end(encoded, err)
	})
}

// readParams decodes a request's body. What it does not know is an error: it would be done otherwise than asked for.
func readParams(w http.ResponseWriter, r *http.Request, params any) error {
	if r.Body == nil || r.ContentLength == 0 {
		return nil
	}
	// Pages in browsers cannot send this type without being asked first.
	if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != JSON {
		return fmt.Errorf("%w: its Content-Type must be %s", ErrRequest, JSON)
	}
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRequest))
	d.DisallowUnknownFields()
	if err := d.Decode(params); err != nil {
		return fmt.Errorf("%w: %w", ErrRequest, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: there is more than one JSON document", ErrRequest)
	}
	return nil
}

// answer is what a request gets.
type answer struct {
	w     http.ResponseWriter
	kinds Kinds
	lines bool

	mu    sync.Mutex
	begun bool
	ended bool
	told  time.Time // of progress, last
}

func (a *answer) progress(p Progress) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if now := time.Now(); now.Sub(a.told) >= progressEvery {
		a.told = now
		a.tell(&Event{Progress: &p})
	}
}

func (a *answer) note(text string) { a.say(&Event{Note: text}) }
func (a *answer) warn(text string) { a.say(&Event{Warning: text}) }

func (a *answer) say(e *Event) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.tell(e)
}

// tell sends an event to who wants to know; the caller holds a.mu.
func (a *answer) tell(e *Event) {
	if !a.lines || a.ended {
		return
	}
	if !a.begun {
		a.begun = true
		a.w.Header().Set("Content-Type", Lines)
		a.w.WriteHeader(http.StatusOK)
	}
	a.write(e)
}

// write sends a line. Where that fails, the request's context ends.
func (a *answer) write(v any) {
	b, err := json.Marshal(v)
	if err != nil {
		return // all that is sent was encoded before
	}
	if _, err := a.w.Write(append(b, '\n')); err != nil {
		return
	}
	if f, ok := a.w.(http.Flusher); ok {
		f.Flush()
	}
}

// end sends the result, or the failure and what there is of a result.
func (a *answer) end(result json.RawMessage, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	last, status := &Event{Result: result}, http.StatusOK
	if err != nil {
		last.Failure, status = a.kinds.fail(err)
		last.Failure.Detail = detail(err)
	} else if result == nil {
		last.Result = json.RawMessage("{}")
	}
	switch {
	case a.begun:
		a.tell(last)
	case err != nil:
		a.w.Header().Set("Content-Type", JSON)
		a.w.WriteHeader(status)
		a.write(last)
	default:
		a.w.Header().Set("Content-Type", JSON)
		a.write(last.Result)
	}
	a.ended = true
}

// Detailed is an error with more to say than its text; it is sent as JSON.
type Detailed interface {
	error
	Detail() any
}

func detail(err error) json.RawMessage {
	var d Detailed
	if !errors.As(err, &d) {
		return nil
	}
	b, err := json.Marshal(d.Detail())
	if err != nil {
		return nil
	}
	return b
}
