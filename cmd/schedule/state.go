package schedule

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"time"

	"github.com/arcboxlabs/arcstore/store/disk"
)

const (
	// Directory is where a store keeps the states of its schedules.
	Directory = "schedules"

	stateSuffix = ".json"
	stateFormat = 1
	maxState    = 4 << 20 // bytes
	maxHistory  = 200     // runs that are remembered
	maxUnpushed = 10_000  // snapshots that wait for their remote
)

// Result is how a run ended.
type Result string

// The results.
const (
	Done      Result = "done"
	Failed    Result = "failed"
	Abandoned Result = "abandoned" // the process ended, or its window closed, before it was done
)

// Run is one time that a schedule ran.
type Run struct {
	Due       time.Time     `json:"due"`
	Started   time.Time     `json:"started"`
	Duration  time.Duration `json:"duration_ns"`
	Result    Result        `json:"result"`
	Tries     int           `json:"tries"`
	Error     string        `json:"error,omitempty"`
	Snapshot  string        `json:"snapshot,omitempty"` // ID of that taken
	Stored    int64         `json:"bytes_stored,omitempty"`
	Pause     time.Duration `json:"pause_ns,omitempty"` // of the guest
	Pushed    int           `json:"pushed,omitempty"`
	Removed   int           `json:"removed,omitempty"` // snapshots by retention, here
	ByRequest bool          `json:"by_request,omitempty"`
}

// State is what is remembered of a schedule while no process runs it.
type State struct {
	Format int    `json:"format"`
	Name   string `json:"name"`
	// Since is when it was first seen.
	Since  time.Time `json:"since"`
	Paused bool      `json:"paused,omitempty"`
	// Gone is one that the configuration has no longer.
	Gone bool `json:"gone,omitempty"`
	// Started is when the last run began, and Running that it has not ended.
	Started time.Time `json:"started,omitzero"`
	Running bool      `json:"running,omitempty"`
	// Failures is how many runs have failed since the last one that was done.
	Failures    int       `json:"failures,omitempty"`
	Runs        int64     `json:"runs"`
	LastSuccess time.Time `json:"last_success,omitzero"`
	// Unpushed are the IDs of snapshots that are to be pushed yet.
	Unpushed []string `json:"unpushed,omitempty"`
	History  []Run    `json:"history"` // the newest last
}

// last returns the last run, nil for none.
func (s *State) last() *Run {
	if len(s.History) == 0 {
		return nil
	}
	return &s.History[len(s.History)-1]
}

// add remembers a run that ended.
func (s *State) add(r Run) {
	s.Runs++
	s.Running = false
	switch r.Result {
	case Done:
		s.Failures, s.LastSuccess = 0, r.Started.Add(r.Duration)
	case Failed:
		s.Failures++
	}
	s.History = append(s.History, r)
	if n := len(s.History) - maxHistory; n > 0 {
		s.History = slices.Delete(s.History, 0, n)
	}
	if n := len(s.Unpushed) - maxUnpushed; n > 0 {
		s.Unpushed = slices.Delete(s.Unpushed, 0, n)
	}
}

// states are files in a store's directory.
type states struct{ dir string }

func statesOf(store string) states { return states{filepath.Join(store, Directory)} }

// read returns the state of a schedule, a new one if there is none that can be read: what is remembered is worth less than what is to be done.
func (f states) read(name string, now time.Time) *State {
	s, err := f.load(name)
	if err != nil {
		return &State{Format: stateFormat, Name: name, Since: now}
	}
	return s
}

func (f states) load(name string) (*State, error) {
	b, err := disk.ReadFile(disk.OS, filepath.Join(f.dir, name+stateSuffix), maxState)
	if err != nil {
		return nil, err
	}
	s := new(State)
	if err := json.Unmarshal(b, s); err != nil {
		return nil, err
	}
	if s.Format > stateFormat || s.Name != name {
		return nil, fmt.Errorf("it has format %d, and is of %q", s.Format, s.Name)
	}
	return s, nil
}

// write makes a state durable.
func (f states) write(s *State) error {
	if err := disk.MakeDir(disk.OS, f.dir); err != nil {
		return fmt.Errorf("schedule %s: %w", s.Name, err)
	}
	b, err := json.MarshalIndent(s, "", " ")
	if err == nil {
		err = disk.WriteFile(disk.OS, filepath.Join(f.dir, s.Name+stateSuffix), append(b, '\n'), true)
	}
	if err != nil {
		return fmt.Errorf("schedule %s: %w", s.Name, err)
	}
	return nil
}

// States returns what is remembered of the schedules of the store in dir, by name, those included that are gone. It needs no lock, and no process that runs them.
func States(dir string) ([]*State, error) { return statesOf(dir).all() }

func (f states) all() ([]*State, error) {
	entries, err := disk.OS.ReadDir(f.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("schedules: %w", err)
	}
	var all []*State
	for _, e := range entries {
		name, ok := cutSuffix(e.Name())
		if !ok {
			continue
		}
		if s, err := f.load(name); err == nil {
			all = append(all, s)
		}
	}
	return all, nil
}

func cutSuffix(file string) (name string, ok bool) {
	name = file[:max(0, len(file)-len(stateSuffix))]
	return name, name+stateSuffix == file && scheduleName.MatchString(name)
}
