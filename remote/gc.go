package remote

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// DefaultGrace is how long what nobody needs stays in a bucket, unless told otherwise.
const DefaultGrace = 24 * time.Hour

// GCOptions are the choices of GC.
type GCOptions struct {
	// Grace is how long an upload may take before its parts are taken for abandoned, and how long what was
	// condemned stays for those who are reading it; 0 is DefaultGrace, less than 0 none. No snapshot's safety depends on it.
	Grace  time.Duration
	DryRun bool
}

// GCReport says what a collection found and did. Sizes are in bytes.
type GCReport struct {
	DryRun         bool  `json:"dry_run"`
	Snapshots      int   `json:"snapshots"`
	Objects        int   `json:"objects"` // packs, manifests and index objects that there are
	Bytes          int64 `json:"bytes"`
	ObjectsDeleted int   `json:"objects_deleted"`
	BytesDeleted   int64 `json:"bytes_deleted"`
	// ObjectsCondemned is what will be deleted by a collection once the grace period is over, if still no snapshot needs it.
	ObjectsCondemned int   `json:"objects_condemned"`
	BytesCondemned   int64 `json:"bytes_condemned"`
	// ObjectsKept is what was condemned while a push came to need it. It stays until that snapshot goes.
	ObjectsKept int `json:"objects_kept"`
	// ObjectsRetained is what could go, were it not for the bucket's object lock. A later collection deletes it.
	ObjectsRetained int   `json:"objects_retained"`
	BytesRetained   int64 `json:"bytes_retained"`
	// ObjectsLost is what snapshots need and the bucket has lost. It was noted: a push that needs it sends it again.
	ObjectsLost int `json:"objects_lost"`
}

// GC deletes what no snapshot needs, in two steps: what nobody needs is condemned, and what was condemned at least a
// grace period ago, and is still not needed, is deleted. Any number of hosts may push, prune and collect meanwhile.
func (r *Remote) GC(ctx context.Context, opts *GCOptions) (*GCReport, error) {
	if opts == nil {
		opts = &GCOptions{}
	}
	c := &collection{r: r, dryRun: opts.DryRun, now: r.now(), grace: max(0, cmp.Or(opts.Grace, DefaultGrace)), dead: newDead(),
		live: make(map[part]bool), uploads: make(map[uploadID]*stored), report: &GCReport{DryRun: opts.DryRun}}
	for _, step := range []func(context.Context) error{c.read, c.sweep, c.condemn, c.forget} {
		if err := step(ctx); err != nil {
			return c.report, fmt.Errorf("remote: gc: %w", err)
		}
	}
	return c.report, nil
}

// collection is a GC under way.
type collection struct {
	r       *Remote
	dryRun  bool
	now     time.Time
	grace   time.Duration
	records map[string]*record
	dead    *dead
	live    map[part]bool
	uploads map[uploadID]*stored
	report  *GCReport
	lost    []string // parts that are needed and gone
	// leftovers are snapshots that somebody wanted to delete.
	leftovers []string
}

// stored is what a bucket holds of an upload.
type stored struct {
	parts map[part]int64 // and their sizes
	index int64          // size of its index object; 0 for none
}

// read reads the records first and the snapshots last: what a record names and no snapshot that is found then needs
// is not needed by any to come, for whoever pushes one looks at the records after that.
func (c *collection) read(ctx context.Context) (err error) {
	if c.records, err = c.r.records(ctx); err != nil {
		return err
	}
	for _, rec := range c.records {
		c.dead.add(rec)
	}
	for _, prefix := range []string{packsPrefix, manifestsPrefix, indexPrefix} {
		if err := c.r.bucket.List(ctx, prefix, c.add); err != nil {
			return err
		}
	}
	// These before the snapshots: none is taken for a dead one's whose snapshot is just being pushed.
	recorded, err := c.r.list(ctx, workingSetsPrefix)
	if err != nil {
		return err
	}
	keys, err := c.r.list(ctx, snapshotsPrefix)
	if err != nil {
		return err
	}
	known := make(map[string]bool, len(keys))
	for _, key := range keys {
		if id, _, err := parseSnapshotKey(key); err == nil {
			known[id] = true
		}
	}
	for _, key := range recorded {
		if id, ok := workingSetOf(key); ok && !known[id] {
			c.leftovers = append(c.leftovers, key)
		}
	}
	keys = slices.DeleteFunc(keys, func(key string) bool {
		_, _, err := parseSnapshotKey(key)
		if err == nil && c.dead.keys[key] {
			c.leftovers = append(c.leftovers, key)
		}
		return err != nil || c.dead.keys[key]
	})
	// One that cannot be read may need anything.
	err = c.r.readSnapshots(ctx, keys, func(s *Snapshot) {
		c.report.Snapshots++
		for _, p := range s.parts() {
			c.live[p] = true
		}
	})
	c.r.cache.keep(snapshotsPrefix, keys)
	if err != nil {
		return err
	}
	return c.findLost(ctx)
}

// findLost looks for what snapshots need and nobody has deleted, and what is not there all the same: somebody deleted it by other means. A
// snapshot's object comes after all that it needs, so what was not listed and is not there now is gone.
func (c *collection) findLost(ctx context.Context) error {
	for p := range c.live {
		if u := c.uploads[p.upload]; c.dead.has(p) || u != nil && u.parts[p] > 0 {
			continue
		}
		there := false
		if err := c.r.bucket.List(ctx, p.key(), func(o Object) error {
			there = there || o.Key == p.key()
			return nil
		}); err != nil {
			return err
		}
		if !there {
			c.lost = append(c.lost, p.key())
		}
	}
	c.report.ObjectsLost = len(c.lost)
	return nil
}

// add notes an object. Those that are not ours are left alone.
func (c *collection) add(o Object) error {
	id, index := strings.CutPrefix(o.Key, indexPrefix)
	u, err := parseUploadID(id)
	p, perr := parsePart(o.Key)
	if index == (err != nil) || (!index && perr != nil) {
		return nil
	}
	if !index {
		u = p.upload
	}
	s := c.uploads[u]
	if s == nil {
		s = &stored{parts: make(map[part]int64)}
		c.uploads[u] = s
	}
	if index {
		s.index = o.Size
	} else {
		s.parts[p] = o.Size
	}
	c.report.Objects++
	c.report.Bytes += o.Size
	return nil
}

// sweep deletes what was condemned a grace period ago.
func (c *collection) sweep(ctx context.Context) error {
	if len(c.leftovers) > 0 && !c.dryRun {
		if _, err := c.r.deleteFree(ctx, c.leftovers); err != nil {
			return err
		}
	}
	due := newDead()
	for _, rec := range c.records {
		if c.now.Sub(rec.Time) >= c.grace {
			due.add(rec)
		}
	}
	for id, u := range c.uploads {
		var keys []string
		bytes, index := int64(0), u.index
		parts := maps.Clone(u.parts)
		for p, size := range u.parts {
			switch {
			case !c.dead.has(p):
			case c.live[p]:
				c.report.ObjectsKept++
			case due.has(p):
				keys = append(keys, p.key())
				bytes += size
				delete(parts, p)
			}
		}
		// The index object stays until everything else is gone: while it is there, no record of its parts may go.
		if due.uploads[id] && len(parts) == 0 && index > 0 {
			keys = append(keys, indexKey(id))
			bytes, index = bytes+index, 0
		}
		if len(keys) == 0 {
			continue
		}
		if !c.dryRun {
			kept, err := c.r.deleteFree(ctx, keys)
			if err != nil {
				return err
			}
			if kept {
				c.report.ObjectsRetained += len(keys)
				c.report.BytesRetained += bytes
				continue
			}
		}
		u.parts, u.index = parts, index
		c.report.ObjectsDeleted += len(keys)
		c.report.BytesDeleted += bytes
	}
	return nil
}

// condemn records what no snapshot needs, and what was lost: nobody is to rely on that.
func (c *collection) condemn(ctx context.Context) error {
	rec := &record{Time: c.now, Parts: slices.Clone(c.lost)}
	for id, u := range c.uploads {
		if c.dead.uploads[id] || c.now.Sub(id.begun()) < c.grace {
			continue // or its snapshot is yet to come
		}
		var dead []part
		needed := false
		for p := range u.parts {
			if c.live[p] {
				needed = true
			} else if !c.dead.has(p) {
				dead = append(dead, p)
			}
		}
		switch {
		case needed:
			for _, p := range dead {
				rec.Parts = append(rec.Parts, p.key())
			}
		case u.index == 0:
			rec.Unfinished = append(rec.Unfinished, id)
		default:
			rec.Uploads = append(rec.Uploads, id)
			c.report.ObjectsCondemned++
			c.report.BytesCondemned += u.index
		}
		for _, p := range dead {
			c.report.ObjectsCondemned++
			c.report.BytesCondemned += u.parts[p]
		}
	}
	if c.dryRun || rec.empty() {
		return nil
	}
	return c.r.condemn(ctx, rec)
}

// forget drops what records say of objects that are gone. Two grace periods after they were condemned, and two lives
// of an upload, no request about them is under way anymore. Records are joined, so that there are few to read.
func (c *collection) forget(ctx context.Context) error {
	var old []string
	for key, rec := range c.records {
		if c.now.Sub(rec.Time) >= 2*max(c.grace, c.r.uploadLife) {
			old = append(old, key)
		}
	}
	kept, err := c.r.retained(ctx, old)
	if err != nil {
		return err
	}
	old = slices.DeleteFunc(old, func(key string) bool { _, ok := kept[key]; return ok })
	joined, before := &record{}, 0
	for _, key := range old {
		rec := c.records[key]
		if rec.Time.After(joined.Time) {
			joined.Time = rec.Time
		}
		before += len(rec.Uploads) + len(rec.Parts) + len(rec.Snapshots)
		joined.Unfinished = append(joined.Unfinished, rec.Unfinished...)
		for _, id := range rec.Uploads {
			if c.there(id) {
				joined.Uploads = append(joined.Uploads, id)
			}
		}
		for _, key := range rec.Parts {
			if p, err := parsePart(key); err != nil || c.there(p.upload) {
				joined.Parts = append(joined.Parts, key)
			}
		}
		for _, key := range rec.Snapshots {
			if slices.Contains(c.leftovers, key) {
				joined.Snapshots = append(joined.Snapshots, key)
			}
		}
	}
	after := len(joined.Uploads) + len(joined.Parts) + len(joined.Snapshots)
	if c.dryRun || (after == before && len(old) < 2) {
		return nil
	}
	if !joined.empty() {
		if err := c.r.condemn(ctx, joined); err != nil {
			return err
		}
	}
	_, err = c.r.deleteFree(ctx, old)
	return err
}

// there reports whether there is anything left of an upload.
func (c *collection) there(id uploadID) bool {
	u := c.uploads[id]
	return u != nil && (u.index > 0 || len(u.parts) > 0)
}
