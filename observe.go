package arcstore

import (
	"time"

	"github.com/arcboxlabs/arcstore/capture"
	"github.com/arcboxlabs/arcstore/store"
)

// Observation is an operation that ended, as Options.Observe is told of it.
type Observation struct {
	Operation string // create, restore, run, delete, prune, gc, verify, repair, reindex, import, push or pull
	Subject   string // the target or the snapshot that it was about; "" where there is none or several
	Duration  time.Duration
	Err       error // nil where it did what it was to do
	// Result is what the operation returned: a *Snapshot, or a pointer to the report of its kind. It may be nil where there is an error.
	Result any
	// Dedup is where the chunks of a create came from; nil for other operations.
	Dedup *Dedup
}

// Dedup says where a create found what it did not have to store, in bytes but for what is said.
type Dedup struct {
	Parent    int64 // as in the parent, holes included
	Neighbour int64 // chunks found right after the one before, in the same pack
	Repeated  int64 // chunks that the snapshot had before
	Elsewhere int64 // chunks found in other packs
	New       int64 // stored
}

// ended tells the observer of an operation; it is deferred.
func ended[R any](m *Manager, operation, subject string, start time.Time, result *R, err *error) {
	if r, ok := any(*result).(*GCReport); ok && r != nil && r.DryRun {
		return // it did nothing
	}
	if m.observer != nil {
		m.observer(Observation{Operation: operation, Subject: subject, Duration: time.Since(start), Err: *err, Result: *result})
	}
}

// observeCreate returns options that have the create tell where its chunks came from, and a function for its end.
func (m *Manager) observeCreate(target string, opts *CreateOptions) (_ *CreateOptions, observed func(*Snapshot, error)) {
	if m.observer == nil {
		return opts, func(*Snapshot, error) {}
	}
	watched, start := *opts, time.Now()
	watched.dedup = new(Dedup)
	return &watched, func(s *Snapshot, err error) {
		m.observer(Observation{Operation: "create", Subject: target, Duration: time.Since(start), Err: err, Result: s, Dedup: watched.dedup})
	}
}

// add adds what a capture and its writer found.
func (d *Dedup) add(s capture.Stats, w *store.Written, chunkSize int64) {
	if d == nil {
		return
	}
	d.Parent += s.Inherited
	d.Neighbour += w.Found.Neighbour * chunkSize
	d.Repeated += w.Found.Repeated * chunkSize
	d.Elsewhere += w.Found.Elsewhere * chunkSize
	d.New += w.Bytes
}

func pruneTarget(opts *PruneOptions) string {
	if opts == nil {
		return ""
	}
	return opts.Target
}
