package control

import (
	"encoding/json"
	"errors"
)

// Media types of answers.
const (
	JSON  = "application/json"
	Lines = "application/x-ndjson" // a JSON document a line
)

// Progress says how far an operation has come.
type Progress struct {
	Phase string `json:"phase"` // what is going on: "scan", "restore", "verify", "mark", "rewrite"
	Done  int64  `json:"done"`  // bytes
	Total int64  `json:"total"` // bytes; 0 where not known
}

// Event is one line of an answer: exactly one of its fields is set, but for the last line of an operation that did
// what it was to do and failed afterwards, which has a result and a failure.
type Event struct {
	Progress *Progress       `json:"progress,omitempty"`
	Note     string          `json:"note,omitempty"`    // for people
	Warning  string          `json:"warning,omitempty"` // for people, and not to be missed
	Result   json.RawMessage `json:"result,omitempty"`
	Failure  *Failure        `json:"error,omitempty"`
}

// last reports whether no other event follows.
func (e *Event) last() bool { return e.Result != nil || e.Failure != nil }

// Failure is an error on its way: its text, and the names of the kinds of errors that it is.
type Failure struct {
	Message string          `json:"message"`
	Kinds   []string        `json:"kinds"`
	Detail  json.RawMessage `json:"detail,omitempty"` // of some kinds
}

// Kind is an error that is known by name at both ends.
type Kind struct {
	Name   string
	Err    error // errors.Is tells whether an error is of the kind
	Status int   // of an answer that is nothing but this error
}

// Kinds are all of them, the most important first.
type Kinds []Kind

// fail returns the failure that err is, and its HTTP status.
func (kinds Kinds) fail(err error) (*Failure, int) {
	f := &Failure{Message: err.Error(), Kinds: []string{}}
	status := 0
	for _, k := range kinds {
		if errors.Is(err, k.Err) {
			f.Kinds = append(f.Kinds, k.Name)
			if status == 0 {
				status = k.Status
			}
		}
	}
	if status == 0 {
		status = 500
	}
	return f, status
}

// error returns what the failure was at the other end, as far as errors.Is can tell.
func (kinds Kinds) error(f *Failure) error {
	e := &Error{Failure: *f}
	for _, name := range f.Kinds {
		for _, k := range kinds {
			if k.Name == name {
				e.is = append(e.is, k.Err)
			}
		}
	}
	return e
}

// Error is an error of the process that holds the store. It is, to errors.Is, what it was there.
type Error struct {
	Failure
	is []error
}

// Error implements error.
func (e *Error) Error() string { return e.Message }

// Unwrap returns the kinds that it is of.
func (e *Error) Unwrap() []error { return e.is }

// Events is who is told of an operation while it runs. All fields may be nil; they are called from one goroutine at a time, or several.
type Events struct {
	Progress func(Progress)
	Note     func(text string)
	Warn     func(text string)
}

// Report calls Progress, if there is somebody.
func (e *Events) Report(p Progress) {
	if e != nil && e.Progress != nil {
		e.Progress(p)
	}
}

// Say calls Note, if there is somebody.
func (e *Events) Say(text string) {
	if e != nil && e.Note != nil {
		e.Note(text)
	}
}

// Alarm calls Warn, if there is somebody.
func (e *Events) Alarm(text string) {
	if e != nil && e.Warn != nil {
		e.Warn(text)
	}
}
