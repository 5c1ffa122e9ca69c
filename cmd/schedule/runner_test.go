package schedule

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/arcboxlabs/arcstore"
)

// diary is what stands in for the work in tests of when it is done.
type diary struct {
	mu    sync.Mutex
	notes []string
	begin time.Time
	busy  map[string]int
	t     *testing.T
	work  func(ctx context.Context, s *Schedule, try int) error
}

func (d *diary) do(ctx context.Context, s *Schedule, _ *worker, run *Run, _ *arcstore.Events) error {
	d.mu.Lock()
	d.notes = append(d.notes, fmt.Sprintf("%s@%s", s.Name, time.Since(d.begin).Round(time.Second)))
	if d.busy[s.subject()]++; s.subject() != "" && d.busy[s.subject()] > 1 {
		d.t.Errorf("two at once on %s", s.subject())
	}
	d.mu.Unlock()
	defer func() {
		d.mu.Lock()
		d.busy[s.subject()]--
		d.mu.Unlock()
	}()
	if d.work == nil {
		return nil
	}
	return d.work(ctx, s, run.Tries)
}

func (d *diary) String() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	notes := slices.Clone(d.notes)
	return strings.Join(notes, " ")
}

// inBubble runs a test of a runner whose clock is the bubble's, which begins at midnight UTC of 2000-01-01.
func inBubble(t *testing.T, dir, config string, work func(context.Context, *Schedule, int) error, test func(r *Runner, d *diary)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		d := &diary{begin: time.Now(), busy: make(map[string]int), t: t, work: work}
		r := NewRunner(nil, dir, nil)
		r.do = d.do
		r.Apply(parse(t, config))
		defer r.Close()
		test(r, d)
	})
}

func parse(t *testing.T, config string) *Config {
	t.Helper()
	c, err := ParseConfig([]byte("time_zone: UTC\n" + config))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func expect(t *testing.T, d *diary, want string) {
	t.Helper()
	synctest.Wait()
	if got := d.String(); got != want {
		t.Errorf("ran %s, want %s", got, want)
	}
}

func TestEvery(t *testing.T) {
	dir := t.TempDir()
	const config = "schedules: [{name: a, gc: {}, every: 1h}]"
	inBubble(t, dir, config, nil, func(r *Runner, d *diary) {
		time.Sleep(150 * time.Minute)
		expect(t, d, "a@0s a@1h0m0s a@2h0m0s")
	})
	// Another process goes on; the bubble's clock begins anew, as if it had been set back.
	inBubble(t, dir, config, nil, func(r *Runner, d *diary) {
		time.Sleep(90 * time.Minute)
		expect(t, d, "a@1h0m0s")
		if st := r.List()[0]; st.Runs != 4 || st.Failures != 0 || st.Last.Result != Done {
			t.Errorf("%+v", st)
		}
	})
}

// TestCatchUp: of the runs that were missed, one is made up for.
func TestCatchUp(t *testing.T) {
	dir := t.TempDir()
	began := time.Date(1999, 12, 30, 5, 0, 0, 0, time.UTC)
	st := &State{Format: stateFormat, Name: "a", Since: began, Started: began}
	if err := statesOf(dir).write(st); err != nil {
		t.Fatal(err)
	}
	inBubble(t, dir, "schedules: [{name: a, gc: {}, cron: '0 3 * * *'}]", nil, func(r *Runner, d *diary) {
		time.Sleep(28 * time.Hour)
		expect(t, d, "a@0s a@3h0m0s a@27h0m0s")
	})
}

// TestNewCalendar: a new schedule by the calendar does not begin at once.
func TestNewCalendar(t *testing.T) {
	inBubble(t, t.TempDir(), "schedules: [{name: a, gc: {}, cron: '0 3 * * *', jitter: 10m}]", nil, func(r *Runner, d *diary) {
		time.Sleep(3*time.Hour - time.Second)
		expect(t, d, "")
		time.Sleep(11 * time.Minute)
		synctest.Wait()
		if n := len(d.notes); n != 1 {
			t.Errorf("%d runs", n)
		}
	})
}

func TestOneTargetAtATime(t *testing.T) {
	const config = `schedules:
 - {name: a, snapshot: {target: x, files: {memory: /m}}, every: 10s}
 - {name: b, snapshot: {target: x, files: {memory: /m}}, every: 10s}
 - {name: c, snapshot: {target: y, files: {memory: /m}}, every: 10s}`
	inBubble(t, t.TempDir(), config, func(context.Context, *Schedule, int) error { time.Sleep(7 * time.Second); return nil }, func(r *Runner, d *diary) {
		time.Sleep(5 * time.Minute)
	})
}

func TestRetries(t *testing.T) {
	var mu sync.Mutex
	var told []Message
	hook := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var m Message
		if err := json.NewDecoder(r.Body).Decode(&m); err != nil || r.Header.Get("X-Key") != "k" {
			t.Errorf("%v, %v", err, r.Header)
		}
		mu.Lock()
		told = append(told, m)
		mu.Unlock()
	}))
	defer hook.Close()
	r := NewRunner(nil, t.TempDir(), nil)
	d := &diary{begin: time.Now(), busy: make(map[string]int), t: t}
	r.do = d.do
	broken := errors.New("the guest does not answer")
	fails := 3
	d.work = func(context.Context, *Schedule, int) error {
		if fails > 0 {
			fails--
			return broken
		}
		return nil
	}
	r.Apply(parse(t, "webhook: {url: '"+hook.URL+"', header: {X-Key: k}}\nschedules: [{name: a, gc: {}, cron: '@yearly', retry: {times: 1, wait: 1ms}}]"))
	var results []string
	for range 3 {
		run, err := r.Run(context.Background(), "a", nil)
		if err != nil {
			t.Fatal(err)
		}
		results = append(results, fmt.Sprint(run.Result, run.Tries, run.Error))
	}
	if got := strings.Join(results, ", "); got != "failed2the guest does not answer, done2, done1" {
		t.Error(got)
	}
	if st := r.List()[0]; st.Failures != 0 || st.Runs != 3 || st.LastSuccess.IsZero() {
		t.Errorf("%+v", st)
	}
	r.Close()
	if len(told) != 2 || told[0].Event != "failed" || told[1].Event != "recovered" && told[0].Event != "recovered" || told[0].Schedule != "a" {
		t.Errorf("%+v", told)
	}
	// Another process knows it all.
	if states, err := States(r.files.dir[:len(r.files.dir)-len(Directory)]); err != nil || len(states) != 1 || len(states[0].History) != 3 {
		t.Errorf("%v, %+v", err, states)
	}
}

func TestRetriesWait(t *testing.T) {
	inBubble(t, t.TempDir(), "schedules: [{name: a, gc: {}, every: 100h, retry: {times: 3, wait: 10s}}]", func(context.Context, *Schedule, int) error { return errors.New("no") }, func(r *Runner, d *diary) {
		time.Sleep(time.Hour)
		synctest.Wait()
		if st := r.List()[0]; st.Last.Tries != 4 || st.Failures != 1 || st.Last.Duration < 20*time.Second {
			t.Errorf("%+v", st.Last)
		}
	})
}

func TestTimeoutAndWindow(t *testing.T) {
	forever := func(ctx context.Context, _ *Schedule, _ int) error { <-ctx.Done(); return ctx.Err() }
	inBubble(t, t.TempDir(), "schedules: [{name: a, gc: {}, every: 10h, timeout: 5m, retry: {times: 0}}]", forever, func(r *Runner, d *diary) {
		time.Sleep(time.Hour)
		synctest.Wait()
		if last := r.List()[0].Last; last.Result != Failed || !strings.Contains(last.Error, "timeout of 5m") {
			t.Errorf("%+v", last)
		}
	})
	inBubble(t, t.TempDir(), "schedules: [{name: a, gc: {}, every: 1h, window: '02:00-03:00'}]", forever, func(r *Runner, d *diary) {
		time.Sleep(5 * time.Hour)
		expect(t, d, "a@2h0m0s")
		if last := r.List()[0].Last; last.Result != Abandoned || last.Error != errClosed.Error() || last.Duration != time.Hour {
			t.Errorf("%+v", last)
		}
	})
}

func TestPause(t *testing.T) {
	inBubble(t, t.TempDir(), "schedules: [{name: a, gc: {}, every: 1h}]", nil, func(r *Runner, d *diary) {
		time.Sleep(30 * time.Minute)
		if err := r.Pause("a"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Hour)
		expect(t, d, "a@0s")
		if st := r.List()[0]; !st.Paused || !st.Next.IsZero() {
			t.Errorf("%+v", st)
		}
		// Nothing is caught up with.
		r.Resume("a")
		time.Sleep(90 * time.Minute)
		expect(t, d, "a@0s a@11h30m0s")
		if err := r.Pause("b"); !errors.Is(err, arcstore.ErrNoSchedule) {
			t.Error(err)
		}
	})
}

// TestApply: what runs is not disturbed by a new configuration, and has no second one beside it.
func TestApply(t *testing.T) {
	inBubble(t, t.TempDir(), "schedules: [{name: a, gc: {}, every: 1h}, {name: b, gc: {}, every: 1h}]", func(ctx context.Context, s *Schedule, _ int) error {
		select {
		case <-time.After(10 * time.Minute):
			return nil
		case <-ctx.Done():
			t.Errorf("%s was disturbed", s.Name)
			return ctx.Err()
		}
	}, func(r *Runner, d *diary) {
		time.Sleep(time.Minute)
		r.Apply(parse(t, "schedules: [{name: a, gc: {}, every: 2h}, {name: c, gc: {}, every: 3h}]"))
		time.Sleep(4*time.Hour + 30*time.Minute)
		synctest.Wait()
		notes := slices.Clone(d.notes)
		slices.Sort(notes)
		if got := strings.Join(notes, " "); got != "a@0s a@2h0m0s a@4h0m0s b@0s c@1m0s c@3h1m0s" {
			t.Error(got)
		}
	})
}

// TestClose: what runs may come to its end, and is abandoned when it takes too long.
func TestClose(t *testing.T) {
	for grace, want := range map[string]Result{"30s": Done, "5s": Abandoned} {
		dir := t.TempDir()
		inBubble(t, dir, "grace: "+grace+"\nschedules: [{name: a, gc: {}, every: 1h}]", func(ctx context.Context, _ *Schedule, _ int) error {
			select {
			case <-time.After(10 * time.Second):
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}, func(r *Runner, d *diary) {
			time.Sleep(time.Second)
			r.Close()
			if st := statesOf(dir).read("a", time.Now()); st.last() == nil || st.last().Result != want || st.Running {
				t.Errorf("grace %s: %+v", grace, st)
			}
		})
	}
}

// TestKilled: what ran when the process was killed is remembered as abandoned.
func TestKilled(t *testing.T) {
	dir := t.TempDir()
	st := &State{Format: stateFormat, Name: "a", Running: true, Started: time.Date(1999, 12, 31, 23, 30, 0, 0, time.UTC)}
	if err := statesOf(dir).write(st); err != nil {
		t.Fatal(err)
	}
	inBubble(t, dir, "schedules: [{name: a, gc: {}, every: 1h}]", nil, func(r *Runner, d *diary) {
		if h, err := r.History("a"); err != nil || len(h) != 1 || h[0].Result != Abandoned {
			t.Errorf("%v %+v", err, h)
		}
		time.Sleep(45 * time.Minute)
		expect(t, d, "a@30m0s")
	})
}
