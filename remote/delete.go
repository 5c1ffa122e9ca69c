package remote

import (
	"context"
	"fmt"
)

// Delete deletes snapshots from the bucket: ErrNoObject if one of them is not there. What only they needed goes with
// GC. Who is reading one has the grace period to finish.
func (r *Remote) Delete(ctx context.Context, ids ...string) error {
	rec := &record{Time: r.now()}
	for _, id := range ids {
		keys, err := r.list(ctx, snapshotsPrefix+id+"/")
		if err != nil {
			return fmt.Errorf("remote: delete %s: %w", id, err)
		}
		if len(keys) == 0 {
			return fmt.Errorf("remote: delete %s: %w", id, ErrNoObject)
		}
		rec.Snapshots = append(rec.Snapshots, keys...)
	}
	return r.deleteSnapshots(ctx, rec)
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
