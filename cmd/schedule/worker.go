package schedule

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/arcboxlabs/arcstore"
	"github.com/arcboxlabs/arcstore/store/control"
)

// longestSleep is how long a worker waits at most before it looks at the clock again, which may have been set.
const longestSleep = time.Minute

// errClosed is the cause of the end of what runs when its window closes.
var errClosed = errors.New("its window closed")

// worker runs one schedule, one time after the other.
type worker struct {
	r    *Runner
	ask  chan request  // to run now
	wake chan struct{} // something changed
	stop context.CancelFunc
	done chan struct{}

	mu       sync.Mutex
	schedule *Schedule
	state    *State
	due      time.Time // the next time, zero where it is paused
	running  bool
}

// request is somebody who wants it to run now.
type request struct {
	ctx    context.Context
	events *arcstore.Events
	answer chan<- Run
}

func (r *Runner) newWorker(s *Schedule) *worker {
	ctx, stop := context.WithCancel(context.Background())
	w := &worker{r: r, ask: make(chan request), wake: make(chan struct{}, 1), stop: stop, done: make(chan struct{}),
		schedule: s, state: r.files.read(s.Name, time.Now())}
	if w.state.Running { // when the process died
		w.state.add(Run{Due: w.state.Started, Started: w.state.Started, Result: Abandoned, Error: "the process that ran it ended"})
	}
	w.state.Gone = false
	w.save()
	go w.loop(ctx)
	return w
}

// loop waits for the next time, or somebody who asks, until the worker is stopped; what runs then is not disturbed.
func (w *worker) loop(ctx context.Context) {
	defer close(w.done)
	jitter := rand.Float64()
	for {
		due := w.plan(jitter)
		timer := time.NewTimer(w.sleep(due))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-w.wake:
		case q := <-w.ask:
			q.answer <- w.run(q.ctx, time.Now(), true, q.events)
			jitter = rand.Float64()
		case <-timer.C:
			if !due.IsZero() && !time.Now().Before(due) {
				w.run(w.r.working, due, false, nil)
				jitter = rand.Float64()
			}
		}
		timer.Stop()
	}
}

// plan finds the next time. One that was missed, or several, is caught up with at once.
func (w *worker) plan(jitter float64) time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.due = time.Time{}
	if w.state.Paused {
		return w.due
	}
	s, now := w.schedule, time.Now()
	last := w.state.Started
	switch _, fixed := s.clock.(every); {
	case last.IsZero() && fixed:
		last = now.Add(-time.Duration(s.Every)) // the first time is now
	case last.IsZero():
		last = w.state.Since
	case last.After(now): // the clock was set back
		w.state.Started = now
		last = now
	}
	due := s.clock.next(last)
	if due.Before(now) {
		due = now
	} else {
		due = due.Add(time.Duration(jitter * float64(s.Jitter)))
	}
	w.due = s.window.open(due.In(s.zone))
	return w.due
}

func (w *worker) sleep(due time.Time) time.Duration {
	if due.IsZero() {
		return longestSleep
	}
	return min(max(0, time.Until(due)), longestSleep)
}

// run does the schedule's work once, with its retries, and remembers how it went.
func (w *worker) run(ctx context.Context, due time.Time, asked bool, events *arcstore.Events) Run {
	w.mu.Lock()
	s := w.schedule
	w.running = true
	w.mu.Unlock()
	unlock := w.r.lockTarget(ctx, s.subject())
	defer unlock()
	run := Run{Due: due.UTC(), Started: time.Now().UTC(), ByRequest: asked}
	w.change(func(st *State) { st.Started, st.Running = run.Started, true })
	log := w.r.log.With("schedule", s.Name, "operation", s.operation())
	log.Info("begins")
	if closes := s.window.closes(time.Now().In(s.zone)); !closes.IsZero() && !asked {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadlineCause(ctx, closes, errClosed)
		defer cancel()
	}
	// Said by who is watching, and by the log.
	told := &arcstore.Events{Progress: events.Report,
		Note: func(text string) { log.Info(text); events.Say(text) },
		Warn: func(text string) { log.Warn(text); events.Alarm(text) }}
	err := w.r.jobs.Run(ctx, control.Job{Operation: s.operation(), Subject: s.subject(), Schedule: s.Name}, told, func(ctx context.Context, events *arcstore.Events) error {
		return w.try(ctx, s, &run, events)
	})
	run.Duration = time.Since(run.Started)
	switch cause := context.Cause(ctx); {
	case err == nil:
		run.Result = Done
	case cause != nil || errors.Is(err, control.ErrCancelled):
		run.Result, run.Error = Abandoned, err.Error()
		if cause != nil {
			run.Error = cause.Error()
		}
	default:
		run.Result, run.Error = Failed, err.Error()
	}
	before := 0
	w.change(func(st *State) {
		before = st.Failures
		st.add(run)
	})
	w.mu.Lock()
	w.running = false
	w.mu.Unlock()
	run.log(log)
	w.r.tell(s, run, before)
	return run
}

// log says how a run went.
func (run *Run) log(log *slog.Logger) {
	log = log.With("took", run.Duration.Round(time.Millisecond).String())
	if run.Tries > 1 {
		log = log.With("tries", run.Tries)
	}
	if run.Snapshot != "" {
		log = log.With("snapshot", run.Snapshot)
	}
	if run.Result != Done {
		log.Error(string(run.Result), "error", run.Error)
		return
	}
	log.Info(string(run.Result))
}

// try does the work until it succeeds, or was tried often enough.
func (w *worker) try(ctx context.Context, s *Schedule, run *Run, events *arcstore.Events) error {
	wait := backoff.NewExponentialBackOff()
	wait.InitialInterval, wait.MaxInterval = s.Retry.wait(), 64*s.Retry.wait()
	_, err := backoff.Retry(ctx, func() (struct{}, error) {
		run.Tries++
		tctx := ctx
		if s.Timeout > 0 {
			var cancel context.CancelFunc
			tctx, cancel = context.WithTimeoutCause(ctx, time.Duration(s.Timeout), fmt.Errorf("it took longer than its timeout of %s", time.Duration(s.Timeout)))
			defer cancel()
		}
		err := w.r.do(tctx, s, w, run, events)
		if err != nil && tctx.Err() != nil && ctx.Err() == nil {
			err = context.Cause(tctx)
		}
		if errors.Is(err, arcstore.ErrInvalid) || errors.Is(err, arcstore.ErrCorrupt) {
			err = backoff.Permanent(err) // it will be no better in a minute
		}
		return struct{}{}, err
	}, backoff.WithBackOff(wait), backoff.WithMaxTries(uint(s.Retry.times()+1)), backoff.WithMaxElapsedTime(0),
		backoff.WithNotify(func(err error, d time.Duration) {
			events.Alarm(fmt.Sprintf("%v: again in %s", err, d.Round(time.Second)))
		}))
	return err
}

// change changes the state, and makes it durable. Where that fails the log says so: what is to be done is done all the same.
func (w *worker) change(f func(*State)) {
	w.mu.Lock()
	f(w.state)
	w.mu.Unlock()
	w.save()
}

func (w *worker) save() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.r.files.write(w.state); err != nil {
		w.r.log.Error("its state was not written", "schedule", w.state.Name, "error", err)
	}
}

func (w *worker) unpushed() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.state.Unpushed)
}

// set gives the worker another form of its schedule.
func (w *worker) set(s *Schedule) {
	w.mu.Lock()
	w.schedule = s
	w.mu.Unlock()
	w.nudge()
}

// nudge has the worker look again at what is to be done when.
func (w *worker) nudge() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}
