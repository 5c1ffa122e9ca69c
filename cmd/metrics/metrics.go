// Package metrics counts, for Prometheus, what a store does: it is told of operations by the façade, and of runs by the
// schedules. arcstore serve offers it at /metrics; a Go runtime may register it beside its own.
//
// Start with [New]; [Metrics.Observe] is for arcstore.Options, and [Metrics.Watch] tells of the store itself.
package metrics

import (
	"context"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/arcboxlabs/arcstore"
)

const (
	// refreshEvery is how old what is said of the store may be, at least.
	refreshEvery = time.Minute
	// refreshShare is how much of the time is spent on looking at a large store, at most: one part in so many.
	refreshShare = 100
)

// Metrics are the counters of one store. They are safe for concurrent use.
type Metrics struct {
	operations *prometheus.CounterVec
	seconds    *prometheus.HistogramVec
	pause      prometheus.Histogram
	chunks     *prometheus.CounterVec
	bytes      *prometheus.CounterVec
	damage     prometheus.Gauge
	moved      prometheus.Counter
	runs       *prometheus.CounterVec

	running *prometheus.Desc
	stored  *prometheus.Desc
	counts  *prometheus.Desc
	failing *prometheus.Desc
	success *prometheus.Desc
	next    *prometheus.Desc
	waiting *prometheus.Desc

	mu    sync.Mutex
	watch Watched
	store *storeFigures // the last ones
	busy  bool          // others are on their way
}

// storeFigures are what there is to say of a store at one moment.
type storeFigures struct {
	at    time.Time
	took  time.Duration
	stats *arcstore.Stats
	dead  int64
}

// Watched is what is looked at when somebody asks.
type Watched struct {
	Store     *arcstore.Manager
	Jobs      func() []Job
	Schedules func() []Schedule
}

// Job is an operation that runs.
type Job struct{ Operation string }

// Schedule is how a schedule is doing.
type Schedule struct {
	Name        string
	Failures    int // in a row
	Unpushed    int // snapshots that wait for their remote
	LastSuccess time.Time
	Next        time.Time
}

// New returns counters that are all zero.
func New() *Metrics {
	name := func(s string) string { return prometheus.BuildFQName("arcstore", "", s) }
	return &Metrics{
		operations: prometheus.NewCounterVec(prometheus.CounterOpts{Name: name("operations_total"),
			Help: "Operations that ended, by their result: done or failed."}, []string{"operation", "result"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name("operation_duration_seconds"),
			Help: "How long operations took.", Buckets: prometheus.ExponentialBuckets(0.001, 4, 12)}, []string{"operation"}),
		pause: prometheus.NewHistogram(prometheus.HistogramOpts{Name: name("guest_pause_seconds"),
			Help: "For how long running guests were paused.", Buckets: prometheus.ExponentialBuckets(0.001, 2, 15)}),
		chunks: prometheus.NewCounterVec(prometheus.CounterOpts{Name: name("create_bytes_total"),
			Help: "What snapshots consist of, by where it was found: parent (holes included), neighbour, repeated, elsewhere, or new."}, []string{"source"}),
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{Name: name("transferred_bytes_total"),
			Help: "Bytes, by what was done with them: scanned, stored, restored, freed, rewritten, verified, pushed, pulled."}, []string{"what"}),
		damage: prometheus.NewGauge(prometheus.GaugeOpts{Name: name("damage_found"),
			Help: "Things that were wrong when the store was last verified."}),
		moved: prometheus.NewCounter(prometheus.CounterOpts{Name: name("snapshots_removed_total"),
			Help: "Snapshots that were deleted or pruned."}),
		runs: prometheus.NewCounterVec(prometheus.CounterOpts{Name: name("schedule_runs_total"),
			Help: "Runs of schedules that ended, by their result: done, failed or abandoned."}, []string{"schedule", "result"}),

		running: prometheus.NewDesc(name("jobs_running"), "Operations that run now.", []string{"operation"}, nil),
		stored:  prometheus.NewDesc(name("store_bytes"), "Size of the store on disk, by kind; dead is what gc would free of it.", []string{"kind"}, nil),
		counts:  prometheus.NewDesc(name("store_objects"), "Snapshots, targets, packs and chunks in the store.", []string{"kind"}, nil),
		failing: prometheus.NewDesc(name("schedule_failures"), "Runs that failed since the last one that was done.", []string{"schedule"}, nil),
		success: prometheus.NewDesc(name("schedule_last_success_timestamp_seconds"), "When a run was done last; 0 for never.", []string{"schedule"}, nil),
		next:    prometheus.NewDesc(name("schedule_next_run_timestamp_seconds"), "When it runs next; 0 for one that is paused.", []string{"schedule"}, nil),
		waiting: prometheus.NewDesc(name("schedule_unpushed_snapshots"), "Snapshots that are not in their remote yet.", []string{"schedule"}, nil),
	}
}

// Watch says what to look at when somebody asks.
func (m *Metrics) Watch(w Watched) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.watch = w
}

// Observe counts an operation.
func (m *Metrics) Observe(o arcstore.Observation) {
	result := "done"
	if o.Err != nil {
		result = "failed"
	}
	m.operations.WithLabelValues(o.Operation, result).Inc()
	m.seconds.WithLabelValues(o.Operation).Observe(o.Duration.Seconds())
	if d := o.Dedup; d != nil && o.Err == nil {
		for source, n := range map[string]int64{"parent": d.Parent, "neighbour": d.Neighbour, "repeated": d.Repeated, "elsewhere": d.Elsewhere, "new": d.New} {
			m.chunks.WithLabelValues(source).Add(float64(n))
		}
	}
	count := func(what string, n int64) { m.bytes.WithLabelValues(what).Add(float64(max(0, n))) }
	switch r := o.Result.(type) {
	case *arcstore.Snapshot:
		if r != nil {
			count("scanned", r.Cost.BytesScanned)
			count("stored", r.Cost.BytesStored)
			if r.Cost.Pause > 0 {
				m.pause.Observe(r.Cost.Pause.Seconds())
			}
		}
	case *arcstore.RestoreReport:
		if r != nil {
			count("restored", r.BytesData)
		}
	case *arcstore.GCReport:
		if r != nil && !r.DryRun {
			count("freed", r.BytesFreed)
			count("rewritten", r.BytesRewritten)
		}
	case *arcstore.VerifyReport:
		if r != nil {
			count("verified", r.BytesRead)
			m.damage.Set(float64(len(r.Damage)))
		}
	case *arcstore.PushReport:
		if r != nil {
			count("pushed", r.Bytes)
		}
	case *arcstore.PullReport:
		if r != nil {
			count("pulled", r.BytesRead)
		}
	case *arcstore.PruneReport:
		if r != nil && !r.DryRun {
			m.moved.Add(float64(r.Removed))
		}
	case []*arcstore.Snapshot:
		m.moved.Add(float64(len(r)))
	}
}

// Ran counts a run of a schedule.
func (m *Metrics) Ran(schedule, result string) { m.runs.WithLabelValues(schedule, result).Inc() }

func (m *Metrics) collectors() []prometheus.Collector {
	return []prometheus.Collector{m.operations, m.seconds, m.pause, m.chunks, m.bytes, m.damage, m.moved, m.runs}
}

// Describe implements prometheus.Collector.
func (m *Metrics) Describe(out chan<- *prometheus.Desc) {
	for _, c := range m.collectors() {
		c.Describe(out)
	}
	for _, d := range []*prometheus.Desc{m.running, m.stored, m.counts, m.failing, m.success, m.next, m.waiting} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (m *Metrics) Collect(out chan<- prometheus.Metric) {
	for _, c := range m.collectors() {
		c.Collect(out)
	}
	m.mu.Lock()
	w := m.watch
	m.mu.Unlock()
	gauge := func(d *prometheus.Desc, v float64, label string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, label)
	}
	if w.Jobs != nil {
		byKind := make(map[string]int)
		for _, j := range w.Jobs() {
			byKind[j.Operation]++
		}
		for kind, n := range byKind {
			gauge(m.running, float64(n), kind)
		}
	}
	if w.Schedules != nil {
		for _, s := range w.Schedules() {
			gauge(m.failing, float64(s.Failures), s.Name)
			gauge(m.waiting, float64(s.Unpushed), s.Name)
			gauge(m.success, unix(s.LastSuccess), s.Name)
			gauge(m.next, unix(s.Next), s.Name)
		}
	}
	if f := m.figures(w.Store); f != nil {
		s := f.stats
		for kind, n := range map[string]int64{"packs": s.PackBytes, "manifests": s.ManifestBytes, "index": s.IndexBytes, "catalogue": s.CatalogueBytes, "dead": f.dead} {
			gauge(m.stored, float64(n), kind)
		}
		for kind, n := range map[string]int64{"snapshots": int64(s.Snapshots), "targets": int64(s.Targets), "packs": int64(s.Packs), "chunks": s.Chunks} {
			gauge(m.counts, float64(n), kind)
		}
	}
}

func unix(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixMilli()) / 1000
}

// figures returns the last figures of the store, which may be nil the first time, and sees to newer ones if they are old: who asks does not wait.
func (m *Metrics) figures(store *arcstore.Manager) *storeFigures {
	m.mu.Lock()
	defer m.mu.Unlock()
	old := m.store
	if store == nil || m.busy || old != nil && time.Since(old.at) < max(refreshEvery, refreshShare*old.took) {
		return old
	}
	m.busy = true
	done := make(chan struct{})
	go func() {
		defer close(done)
		f := look(store)
		m.mu.Lock()
		defer m.mu.Unlock()
		m.busy = false
		if f != nil {
			m.store = f
		}
	}()
	if old != nil {
		return old
	}
	m.mu.Unlock()
	select { // the first time, small stores have figures at once
	case <-done:
	case <-time.After(time.Second):
	}
	m.mu.Lock()
	return m.store
}

// look looks at a store; nil where that fails, which other operations tell of.
func look(store *arcstore.Manager) *storeFigures {
	begun := time.Now()
	stats, err := store.Stats(context.Background())
	if err != nil {
		return nil
	}
	plan, err := store.GC(context.Background(), &arcstore.GCOptions{DryRun: true})
	if err != nil {
		return nil
	}
	return &storeFigures{at: time.Now(), took: time.Since(begun), stats: stats, dead: max(0, plan.BytesFreed)}
}
