package schedule

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/arcboxlabs/arcstore"
	"github.com/arcboxlabs/arcstore/manifest"
)

// work does once what a schedule is for, and notes it in run. What it did before it failed is not done again by the next try.
func (r *Runner) work(ctx context.Context, s *Schedule, w *worker, run *Run, events *arcstore.Events) error {
	switch {
	case s.Snapshot != nil:
		return r.snapshot(ctx, s, w, run, events)
	case s.GC != nil:
		_, err := r.m.GC(ctx, &arcstore.GCOptions{Progress: events.Report})
		return err
	case s.RemoteGC != nil:
		return r.open(ctx, s.RemoteGC.Remote, 0, events, func(remote *arcstore.Remote) error {
			_, err := remote.GC(ctx, nil)
			return err
		})
	}
	return r.verify(ctx, s.Verify, events)
}

// snapshot takes a snapshot, unless an earlier try has, sends what is to be sent, and prunes.
func (r *Runner) snapshot(ctx context.Context, s *Schedule, w *worker, run *Run, events *arcstore.Events) error {
	if run.Snapshot == "" {
		taken, err := r.m.Create(ctx, s.Snapshot, events)
		if taken != nil {
			run.Snapshot, run.Stored, run.Pause = taken.ID, taken.Cost.BytesStored, taken.Cost.Pause
			if s.Push != nil {
				w.change(func(st *State) { st.Unpushed = append(st.Unpushed, taken.ID) })
			}
		}
		if err != nil {
			return err
		}
	}
	// A bucket that cannot be reached must not let the store grow.
	perr := r.push(ctx, s, w, run, events)
	if s.Keep != nil {
		pruned, err := r.m.Prune(ctx, s.Keep.retention(s.zone), &arcstore.PruneOptions{Target: s.Snapshot.Target})
		if pruned != nil {
			run.Removed += pruned.Removed
		}
		perr = errors.Join(perr, err)
	}
	return perr
}

// push sends the snapshots that wait for it.
func (r *Runner) push(ctx context.Context, s *Schedule, w *worker, run *Run, events *arcstore.Events) error {
	if s.Push == nil {
		return nil
	}
	var refs []string
	for _, id := range w.unpushed() {
		e, err := r.m.Get(ctx, id)
		switch {
		case errors.Is(err, arcstore.ErrNotFound): // the retention did not want it any longer
		case err != nil:
			return err
		case e.State == manifest.Ready:
			refs = append(refs, e.ID)
		}
	}
	if len(refs) > 0 {
		err := r.open(ctx, s.Push.Remote, int64(s.Push.Limit), events, func(remote *arcstore.Remote) error {
			report, err := remote.Push(ctx, r.m, refs, &arcstore.PushOptions{Progress: events.Report})
			if err != nil {
				return err
			}
			run.Pushed += len(report.Pushed)
			if s.Push.Keep == nil {
				return nil
			}
			_, err = remote.Prune(ctx, s.Push.Keep.retention(s.zone), &arcstore.PruneOptions{Target: s.Snapshot.Target})
			return err
		})
		if err != nil {
			return fmt.Errorf("push to %s: %w", s.Push.Remote, err)
		}
	}
	w.change(func(st *State) {
		st.Unpushed = slices.DeleteFunc(st.Unpushed, func(id string) bool { return slices.Contains(refs, id) || !r.exists(ctx, id) })
	})
	return nil
}

func (r *Runner) exists(ctx context.Context, id string) bool {
	_, err := r.m.Get(ctx, id)
	return !errors.Is(err, arcstore.ErrNotFound)
}

// verify fails where there is damage that is not mended.
func (r *Runner) verify(ctx context.Context, v *Verify, events *arcstore.Events) error {
	opts := &arcstore.VerifyOptions{Data: v.Data, Progress: events.Report}
	if v.Percent != nil {
		opts.Percent = *v.Percent
	}
	if v.RepairFrom != "" {
		return r.open(ctx, v.RepairFrom, 0, events, func(remote *arcstore.Remote) error {
			report, err := r.m.Repair(ctx, remote, opts)
			if err == nil && len(report.Left) > 0 {
				err = fmt.Errorf("%w: %d snapshots could not be repaired", arcstore.ErrCorrupt, len(report.Left))
			}
			return err
		})
	}
	report, err := r.m.Verify(ctx, opts)
	if err == nil && len(report.Damage) > 0 {
		err = fmt.Errorf("%w: %d things are wrong: arcstore verify names them", arcstore.ErrCorrupt, len(report.Damage))
	}
	return err
}

// open opens a remote of the store.
func (r *Runner) open(ctx context.Context, name string, limit int64, events *arcstore.Events, use func(*arcstore.Remote) error) error {
	opts := r.remote
	opts.UploadLimit, opts.Warn = limit, events.Alarm
	remote, err := r.m.OpenRemote(ctx, name, &opts)
	if err != nil {
		return err
	}
	return errors.Join(use(remote), remote.Close())
}
