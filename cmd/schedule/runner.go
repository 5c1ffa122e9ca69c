package schedule

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/arcboxlabs/arcstore"
	"github.com/arcboxlabs/arcstore/store/control"
)

// Options are the choices of NewRunner.
type Options struct {
	// Remote has the choices for remotes that are opened, but for the limits.
	Remote arcstore.RemoteOptions
	// Jobs are told of what runs; nil keeps it apart.
	Jobs *control.Jobs
	// Log is told what happens; nil is nobody.
	Log *slog.Logger
	// Observe, unless nil, is told of every run that ended, from several goroutines.
	Observe func(s *Schedule, r Run)
}

// Runner runs schedules: several at once, but no two on one target. It is safe for concurrent use.
type Runner struct {
	m       *arcstore.Manager
	remote  arcstore.RemoteOptions
	jobs    *control.Jobs
	log     *slog.Logger
	observe func(*Schedule, Run)
	files   states
	do      func(ctx context.Context, s *Schedule, w *worker, run *Run, events *arcstore.Events) error

	working context.Context // ends when what runs is to be abandoned
	abandon context.CancelCauseFunc

	mu      sync.Mutex
	workers map[string]*worker
	leaving []*worker // of schedules that are no more, and still run
	webhook *Webhook
	grace   time.Duration
	closed  bool
	tellers sync.WaitGroup

	targets sync.Map // name to a channel that holds one while something runs on it
}

// NewRunner returns a runner for the store in dir that m holds. It has nothing to do until Apply. Close must be called, before m's.
func NewRunner(m *arcstore.Manager, dir string, opts *Options) *Runner {
	if opts == nil {
		opts = &Options{}
	}
	r := &Runner{m: m, remote: opts.Remote, jobs: opts.Jobs, log: opts.Log, observe: opts.Observe, files: statesOf(dir),
		workers: make(map[string]*worker), grace: DefaultGrace}
	if r.jobs == nil {
		r.jobs = new(control.Jobs)
	}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	r.do = r.work
	r.working, r.abandon = context.WithCancelCause(context.Background())
	return r
}

// Apply runs the schedules of c from now on, instead of those before. What runs goes on to its end.
func (r *Runner) Apply(c *Config) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return
	}
	r.webhook, r.grace = c.Webhook, c.grace()
	wanted := make(map[string]bool)
	for _, s := range c.Schedules {
		wanted[s.Name] = true
		if w, ok := r.workers[s.Name]; ok {
			w.set(s)
		} else {
			r.workers[s.Name] = r.newWorker(s)
		}
	}
	for name, w := range r.workers {
		if !wanted[name] {
			w.stop()
			w.change(func(st *State) { st.Gone = true })
			r.leaving = append(r.leaving, w)
			delete(r.workers, name)
		}
	}
	r.leaving = slices.DeleteFunc(r.leaving, (*worker).ended)
	r.forget(wanted)
}

// forget marks what an earlier process ran, and nobody wants any longer.
func (r *Runner) forget(wanted map[string]bool) {
	all, err := r.files.all()
	for _, s := range all {
		if !wanted[s.Name] && !s.Gone {
			s.Gone = true
			err = errors.Join(err, r.files.write(s))
		}
	}
	if err != nil {
		r.log.Error("states of schedules", "error", err)
	}
}

func (w *worker) ended() bool {
	select {
	case <-w.done:
		return true
	default:
		return false
	}
}

// Close lets what runs come to its end for as long as the configuration says, abandons then what is left, and returns when nothing runs.
func (r *Runner) Close() {
	r.mu.Lock()
	r.closed = true
	all := slices.Clone(r.leaving)
	for _, w := range r.workers {
		w.stop()
		all = append(all, w)
	}
	timer := time.AfterFunc(r.grace, func() { r.abandon(arcstore.ErrStopping) })
	r.mu.Unlock()
	for _, w := range all {
		<-w.done
	}
	timer.Stop()
	r.abandon(arcstore.ErrStopping)
	r.tellers.Wait()
}

// lockTarget waits until nothing else runs on a target, or ctx ends, and with it what was to run; "" is none.
func (r *Runner) lockTarget(ctx context.Context, target string) (unlock func()) {
	if target == "" {
		return func() {}
	}
	turn, _ := r.targets.LoadOrStore(target, make(chan struct{}, 1))
	select {
	case turn.(chan struct{}) <- struct{}{}:
		return func() { <-turn.(chan struct{}) }
	case <-ctx.Done():
		return func() {}
	}
}

// Status is what there is to say of a schedule.
type Status struct {
	*Schedule
	When      string    `json:"when"`
	Operation string    `json:"operation"`
	Subject   string    `json:"subject,omitempty"` // target or remote
	Next      time.Time `json:"next,omitzero"`     // not for one that is paused
	Paused    bool      `json:"paused,omitempty"`
	Running   bool      `json:"running,omitempty"`
	Failures  int       `json:"failures"` // in a row
	Runs      int64     `json:"runs"`
	Unpushed  int       `json:"unpushed"` // snapshots that wait for their remote
	// LastSuccess is zero where there is none.
	LastSuccess time.Time `json:"last_success,omitzero"`
	Last        *Run      `json:"last,omitempty"`
}

// List returns the status of all schedules, by name.
func (r *Runner) List() []Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := make([]Status, 0, len(r.workers))
	for _, w := range r.workers {
		list = append(list, w.status())
	}
	slices.SortFunc(list, func(a, b Status) int { return cmp.Compare(a.Name, b.Name) })
	return list
}

func (w *worker) status() Status {
	w.mu.Lock()
	defer w.mu.Unlock()
	st := Status{Schedule: w.schedule, When: w.schedule.clock.String(), Operation: w.schedule.operation(), Subject: w.schedule.subject(), Next: w.due,
		Paused: w.state.Paused, Running: w.running, Failures: w.state.Failures, Runs: w.state.Runs, Unpushed: len(w.state.Unpushed), LastSuccess: w.state.LastSuccess}
	if last := w.state.last(); last != nil {
		copied := *last
		st.Last = &copied
	}
	return st
}

func (r *Runner) worker(name string) (*worker, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	w, ok := r.workers[name]
	if !ok {
		return nil, fmt.Errorf("arcstore: %w: %q", arcstore.ErrNoSchedule, name)
	}
	return w, nil
}

// History returns the runs of a schedule that are remembered, the newest last.
func (r *Runner) History(name string) ([]Run, error) {
	w, err := r.worker(name)
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]Run{}, w.state.History...), nil
}

// Pause keeps a schedule from running by itself, until Resume; what runs goes on.
func (r *Runner) Pause(name string) error { return r.setPaused(name, true) }

// Resume undoes Pause. What was missed meanwhile is not caught up with.
func (r *Runner) Resume(name string) error { return r.setPaused(name, false) }

func (r *Runner) setPaused(name string, paused bool) error {
	w, err := r.worker(name)
	if err != nil {
		return err
	}
	w.change(func(st *State) {
		if st.Paused && !paused {
			st.Since = time.Now()
			if !st.Started.IsZero() {
				st.Started = st.Since
			}
		}
		st.Paused = paused
	})
	w.nudge()
	return nil
}

// Run runs a schedule now, once what it runs already has ended, and returns how that went; an error says that it did not run.
func (r *Runner) Run(ctx context.Context, name string, events *arcstore.Events) (*Run, error) {
	w, err := r.worker(name)
	if err != nil {
		return nil, err
	}
	answer := make(chan Run, 1)
	select {
	case w.ask <- request{ctx, events, answer}:
		run := <-answer
		return &run, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-w.done:
		return nil, arcstore.ErrStopping
	}
}

// Handler answers for the schedules below /v1/schedules.
func (r *Runner) Handler() http.Handler {
	mux := http.NewServeMux()
	type none = struct{}
	answer := func(pattern string, run func(context.Context, string, *arcstore.Events) (any, error)) {
		mux.Handle(pattern, control.Handle(arcstore.ErrorKinds, func(ctx context.Context, q *http.Request, _ none, events *arcstore.Events) (any, error) {
			return run(ctx, q.PathValue("name"), events)
		}))
	}
	answer("GET /v1/schedules", func(context.Context, string, *arcstore.Events) (any, error) { return r.List(), nil })
	answer("GET /v1/schedules/{name}/history", func(_ context.Context, name string, _ *arcstore.Events) (any, error) { return r.History(name) })
	answer("POST /v1/schedules/{name}/pause", func(_ context.Context, name string, _ *arcstore.Events) (any, error) { return none{}, r.Pause(name) })
	answer("POST /v1/schedules/{name}/resume", func(_ context.Context, name string, _ *arcstore.Events) (any, error) { return none{}, r.Resume(name) })
	answer("POST /v1/schedules/{name}/run", func(ctx context.Context, name string, events *arcstore.Events) (any, error) {
		return r.Run(ctx, name, events)
	})
	return mux
}
