package control

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

var (
	// ErrCancelled: somebody cancelled the operation.
	ErrCancelled = errors.New("the operation was cancelled")
	// ErrNoJob: no job of that ID runs.
	ErrNoJob = errors.New("no such job runs")
)

// Job is an operation that runs.
type Job struct {
	ID        string    `json:"id"`
	Operation string    `json:"operation"`          // "create", "gc"
	Subject   string    `json:"subject,omitempty"`  // the target, the snapshot or the remote that it is about
	Schedule  string    `json:"schedule,omitempty"` // that it belongs to
	Started   time.Time `json:"started"`
	Progress  *Progress `json:"progress,omitempty"` // the last that it said
}

// Jobs are the operations that run in a process. The zero value has none. It is safe for concurrent use.
type Jobs struct {
	mu   sync.Mutex
	jobs map[string]*running
}

type running struct {
	job    Job
	cancel context.CancelCauseFunc
}

// Run runs an operation as a job; job's ID and times are set here. The events that run is given are those that it is given, but
// for the job's progress, which is kept. A job that is cancelled fails with ErrCancelled.
func (j *Jobs) Run(ctx context.Context, job Job, events *Events, run func(context.Context, *Events) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	job.ID, job.Started = rand.Text()[:12], time.Now().UTC()
	r := &running{job: job, cancel: cancel}
	j.mu.Lock()
	if j.jobs == nil {
		j.jobs = make(map[string]*running)
	}
	j.jobs[job.ID] = r
	j.mu.Unlock()
	defer func() {
		j.mu.Lock()
		defer j.mu.Unlock()
		delete(j.jobs, job.ID)
	}()
	watched := &Events{Note: events.Say, Warn: events.Alarm, Progress: func(p Progress) {
		j.mu.Lock()
		r.job.Progress = &p
		j.mu.Unlock()
		events.Report(p)
	}}
	err := run(ctx, watched)
	if cause := context.Cause(ctx); err != nil && errors.Is(err, context.Canceled) && cause != nil {
		return cause
	}
	return err
}

// List returns the jobs, the oldest first.
func (j *Jobs) List() []Job {
	j.mu.Lock()
	defer j.mu.Unlock()
	list := make([]Job, 0, len(j.jobs))
	for _, r := range j.jobs {
		list = append(list, r.job)
	}
	slices.SortFunc(list, func(a, b Job) int { return cmp.Or(a.Started.Compare(b.Started), cmp.Compare(a.ID, b.ID)) })
	return list
}

// Cancel cancels a job; it ends in its own time. ErrNoJob if there is none of that ID.
func (j *Jobs) Cancel(id string) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	r, ok := j.jobs[id]
	if !ok {
		return fmt.Errorf("store: %w: %q", ErrNoJob, id)
	}
	r.cancel(ErrCancelled)
	return nil
}
