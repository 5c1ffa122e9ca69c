package remote

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Delete deletes snapshots from the bucket, or none of them: ErrNoObject if one is not there, ErrRetained if one cannot be
// deleted yet. What only they needed goes with GC. Who is reading one has the grace period to finish.
func (r *Remote) Delete(ctx context.Context, ids ...string) error {
	rec := &record{Time: r.now()}
	for _, id := range ids {
		keys, until, err := r.deletable(ctx, id)
		if err != nil {
			return fmt.Errorf("remote: delete %s: %w", id, err)
		}
		if len(keys) == 0 {
			return fmt.Errorf("remote: delete %s: %w", id, ErrNoObject)
		}
		if until != nil {
			return fmt.Errorf("remote: delete %s: %w", id, retainedUntil(*until))
		}
		rec.Snapshots = append(rec.Snapshots, keys...)
	}
	return r.deleteSnapshots(ctx, rec)
}

// Drop is Delete for those snapshots that are there.
func (r *Remote) Drop(ctx context.Context, ids ...string) error {
	rec := &record{Time: r.now()}
	for _, id := range ids {
		keys, err := r.list(ctx, snapshotsPrefix+id+"/")
		if err != nil {
			return fmt.Errorf("remote: delete %s: %w", id, err)
		}
		rec.Snapshots = append(rec.Snapshots, keys...)
	}
	return r.deleteSnapshots(ctx, rec)
}

// Retained returns until when a snapshot cannot be deleted, the zero time where nobody knows; nil if it can be.
func (r *Remote) Retained(ctx context.Context, id string) (until *time.Time, err error) {
	_, until, err = r.deletable(ctx, id)
	if err != nil {
		err = fmt.Errorf("remote: %s: %w", id, err)
	}
	return until, err
}

// deletable returns the keys of a snapshot, and until when they are retained.
func (r *Remote) deletable(ctx context.Context, id string) (keys []string, until *time.Time, err error) {
	if keys, err = r.list(ctx, snapshotsPrefix+id+"/"); err != nil {
		return nil, nil, err
	}
	kept, err := r.retained(ctx, keys)
	for _, t := range kept {
		if until == nil || t.IsZero() || t.After(*until) && !until.IsZero() {
			until = &t
		}
	}
	return keys, until, err
}

// retained returns those of the objects that cannot be deleted yet.
func (r *Remote) retained(ctx context.Context, keys []string) (map[string]time.Time, error) {
	b, ok := r.bucket.(Retainer)
	if !ok || len(keys) == 0 {
		return nil, nil
	}
	return b.Retained(ctx, keys...)
}

func retainedUntil(t time.Time) error {
	if t.IsZero() {
		return ErrRetained
	}
	return fmt.Errorf("%w until %s", ErrRetained, t.Local().Format(time.DateTime))
}

// deleteSnapshots says which, before it deletes them.
func (r *Remote) deleteSnapshots(ctx context.Context, rec *record) error {
	if rec.empty() {
		return nil
	}
	if err := r.condemn(ctx, rec); err != nil {
		return fmt.Errorf("remote: delete: %w", err)
	}
	if err := r.bucket.Delete(ctx, rec.Snapshots...); err != nil {
		return fmt.Errorf("remote: delete: %w", err)
	}
	return nil
}

// deleteFree deletes objects, but for those that the bucket retains. It reports whether there were any.
func (r *Remote) deleteFree(ctx context.Context, keys []string) (kept bool, err error) {
	err = r.bucket.Delete(ctx, keys...)
	if errors.Is(err, ErrRetained) {
		return true, nil
	}
	return false, err
}
