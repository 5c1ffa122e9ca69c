package arcstore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/arcboxlabs/arcstore/manifest"
	"github.com/arcboxlabs/arcstore/remote"
	"github.com/arcboxlabs/arcstore/store"
	"github.com/arcboxlabs/arcstore/store/crypt"
	"github.com/arcboxlabs/arcstore/store/disk"
)

// remotesName is where a store keeps what it knows of buckets. All of it may be deleted.
const remotesName = "remotes"

// RemoteOptions are the choices of OpenBucket.
type RemoteOptions struct {
	// CacheDir keeps what was read of the bucket for the next time; "" keeps it in memory. A process has it alone.
	CacheDir string
	// NoCache has OpenRemote leave the store's cache of the bucket to others: for who has the bucket open for long.
	NoCache     bool
	LockTimeout time.Duration // how long to wait for another process that has it; then it fails with ErrInUse
	Holder      string        // what other processes are told of this one
	// UploadLimit and DownloadLimit are in bytes a second; 0 is none.
	UploadLimit, DownloadLimit int64
	// Patience is for how long a request is tried that fails for reasons that may pass; 0 is two minutes.
	Patience time.Duration
	// Secret is asked for a secret that opens the bucket, if that is encrypted and the store does not have its key.
	Secret func() (Secret, error)
	// Warn, unless nil, is told what should never be, such as a snapshot that needs what a gc has condemned.
	Warn func(text string)

	key *crypt.Key // of the store
}

// Remote is a bucket that any number of hosts push snapshots to. One operation at a time.
type Remote struct {
	// Snapshots reads the snapshots in the bucket, like those of a store that was opened
	// read-only: get, list, restore, verify, diff and stats. It is nil as long as nothing was pushed.
	Snapshots *Manager

	r      *remote.Remote
	disk   *remote.Disk // under Snapshots
	s3     *remote.S3   // nil for another kind of bucket
	unlock func()

	cacheDir string
	warn     func(string)
}

// Requests returns how many requests were sent to the bucket so far.
func (r *Remote) Requests() remote.Requests {
	if r.s3 == nil {
		return remote.Requests{}
	}
	return r.s3.Requests()
}

// OpenBucket opens what is in a bucket. It must be closed.
func OpenBucket(ctx context.Context, bucket remote.Bucket, opts *RemoteOptions) (_ *Remote, err error) {
	if opts == nil {
		opts = &RemoteOptions{}
	}
	r := &Remote{unlock: func() {}, cacheDir: opts.CacheDir, warn: opts.Warn}
	r.s3, _ = bucket.(*remote.S3)
	if opts.CacheDir != "" {
		if err := disk.MakeDir(disk.OS, opts.CacheDir); err != nil {
			return nil, fmt.Errorf("arcstore: %w", err)
		}
		if r.unlock, err = store.LockDir(ctx, opts.CacheDir, opts.LockTimeout, opts.Holder); err != nil {
			return nil, err
		}
	}
	r.r, err = remote.Open(ctx, bucket, &remote.Options{CacheDir: opts.CacheDir, Key: opts.key, Secret: opts.Secret, Warn: opts.Warn})
	if err == nil {
		err = r.openSnapshots(ctx)
	}
	if err != nil {
		r.unlock()
		return nil, wrapRemote(err)
	}
	return r, nil
}

// openSnapshots opens what is in the bucket, if anything is.
func (r *Remote) openSnapshots(ctx context.Context) error {
	if r.Snapshots != nil || r.r.Empty() {
		return nil
	}
	d := r.r.Disk(ctx)
	m, err := openOn(ctx, d, 0, remote.DiskDir, &Options{ReadOnly: true, distant: true, key: r.r.Key()})
	if err != nil {
		return err
	}
	m.near, m.readAround = d.Near, d.ReadAround
	r.disk = d
	m.putWorkingSet = func(ctx context.Context, id string, w *WorkingSet) error {
		b, err := m.working.Encode(id, w)
		if err != nil {
			return err
		}
		return wrapRemote(r.r.PutWorkingSets(ctx, map[string][]byte{id: b}))
	}
	r.Snapshots = m
	return nil
}

// Close lets go of the bucket.
func (r *Remote) Close() error {
	defer r.unlock()
	err := r.r.Close()
	if r.disk != nil {
		err = errors.Join(err, r.disk.Close())
	}
	return err
}

// PushOptions are the choices of Push.
type PushOptions struct {
	Progress func(Progress) // bytes sent, of those that the bucket lacks
}

// PushReport says what a push did. Sizes are in bytes.
type PushReport struct {
	Pushed   []string      `json:"pushed"`  // IDs of snapshots that were not in the bucket, and now are
	Present  []string      `json:"present"` // those that were there before
	Packs    int           `json:"packs"`   // sent
	Bytes    int64         `json:"bytes"`   // sent, of everything
	Resumed  int           `json:"resumed"` // objects that an earlier push had sent
	Duration time.Duration `json:"duration_ns"`
}

// Push makes sure that snapshots of m are in the bucket: what refs name (IDs, prefixes, TARGET@latest), or every one
// that is ready for none. Only chunks are sent that the bucket lacks. Once it returns without an error, they are there until
// somebody deletes them. It may be repeated after an error, and does what is left.
func (r *Remote) Push(ctx context.Context, m *Manager, refs []string, opts *PushOptions) (report *PushReport, err error) {
	defer ended(m, "push", "", time.Now(), &report, &err)
	if opts == nil {
		opts = &PushOptions{}
	}
	start := time.Now()
	entries, err := m.pushed(ctx, refs)
	if err != nil {
		return nil, err
	}
	if err := r.r.Fits(ctx, m.store); err != nil {
		return nil, wrapRemote(err)
	}
	if m.store.Key() == nil {
		r.warnPlain()
	}
	from := &remote.Local{Store: m.store, Manifests: m.manifests, Scratch: filepath.Join(m.dir, remotesName, ".scratch")}
	done, err := r.r.Push(ctx, from, entries, &remote.PushOptions{Progress: func(done, total int64) {
		if opts.Progress != nil {
			opts.Progress(Progress{Phase: "push", Done: done, Total: total})
		}
	}})
	report = &PushReport{Pushed: list(done.Pushed), Present: list(done.Present), Packs: done.Packs, Bytes: done.Bytes, Resumed: done.Resumed, Duration: time.Since(start)}
	if err == nil {
		err = r.pushWorkingSets(ctx, m, entries)
	}
	if err == nil {
		err = r.openSnapshots(ctx)
	}
	return report, wrapRemote(err)
}

// pushWorkingSets sends what was recorded of snapshots.
func (r *Remote) pushWorkingSets(ctx context.Context, m *Manager, entries []*Snapshot) error {
	files := make(map[string][]byte)
	for _, e := range entries {
		if b, err := m.working.File(ctx, e.ID); err == nil {
			files[e.ID] = b
		}
	}
	return r.r.PutWorkingSets(ctx, files)
}

// list returns a list that is an array in JSON, too.
func list(ids []string) []string { return append([]string{}, ids...) }

// plainNote is the file that says that somebody was told.
const plainNote = "told-plain"

// warnPlain says, once for a cache, who can read what was pushed.
func (r *Remote) warnPlain() {
	if r.cacheDir == "" || r.warn == nil {
		return
	}
	note := filepath.Join(r.cacheDir, plainNote)
	if _, err := os.Stat(note); err == nil {
		return
	}
	r.warn("the store is not encrypted: whoever can read the bucket can read the memory of what was snapshotted")
	disk.WriteFile(disk.OS, note, nil, false)
}

// pushed returns the snapshots that refs name, oldest first.
func (m *Manager) pushed(ctx context.Context, refs []string) ([]*Snapshot, error) {
	if len(refs) == 0 {
		all, err := m.list(ctx)
		return slices.DeleteFunc(all, func(e *Snapshot) bool { return e.State != manifest.Ready }), err
	}
	var entries []*Snapshot
	for _, ref := range refs {
		e, err := m.Get(ctx, ref)
		if err != nil {
			return nil, err
		}
		switch e.State {
		case manifest.Creating:
			return nil, fmt.Errorf("arcstore: snapshot %s: %w: it is being created", e.ID, ErrNotReady)
		case manifest.Invalid:
			return nil, fmt.Errorf("arcstore: snapshot %s is damaged, and is not pushed: %w", e.ID, ErrCorrupt)
		}
		if !slices.ContainsFunc(entries, func(o *Snapshot) bool { return o.ID == e.ID }) {
			entries = append(entries, e)
		}
	}
	slices.SortStableFunc(entries, func(a, b *Snapshot) int { return a.Created.Compare(b.Created) })
	return entries, nil
}

// Delete deletes snapshots from the bucket and returns their entries. The space comes back with GC.
func (r *Remote) Delete(ctx context.Context, refs ...string) ([]*Snapshot, error) {
	if r.Snapshots == nil {
		return nil, fmt.Errorf("arcstore: %w: the bucket is empty", ErrNotFound)
	}
	var entries []*Snapshot
	var ids []string
	for _, ref := range refs {
		e, err := r.Snapshots.Get(ctx, ref)
		if err != nil {
			return nil, err
		}
		entries, ids = append(entries, e), append(ids, e.ID)
	}
	return entries, wrapRemote(r.r.Delete(ctx, ids...))
}

// Prune deletes from the bucket what neither keep nor the bucket's object lock keeps, target by target, and says why each
// snapshot stays or goes.
func (r *Remote) Prune(ctx context.Context, keep Retention, opts *PruneOptions) (*PruneReport, error) {
	if opts == nil {
		opts = &PruneOptions{}
	}
	var entries []*Snapshot
	if r.Snapshots != nil {
		var err error
		if entries, err = r.Snapshots.List(ctx, opts.Target); err != nil {
			return nil, err
		}
	}
	entries = slices.DeleteFunc(entries, func(e *Snapshot) bool { return e.TargetID == "" })
	decisions, err := keep.Plan(entries)
	if err != nil {
		return nil, err
	}
	report := &PruneReport{DryRun: opts.DryRun, Decisions: decisions}
	var ids []string
	for i := range decisions {
		d := &decisions[i]
		if !d.Keep {
			until, err := r.r.Retained(ctx, d.Snapshot.ID)
			if err != nil {
				return nil, wrapRemote(err)
			}
			if until != nil {
				d.Keep, d.Reasons = true, []string{lockReason(*until)}
			}
		}
		if d.Keep {
			report.Kept++
		} else {
			report.Removed++
			ids = append(ids, d.Snapshot.ID)
		}
	}
	if opts.DryRun || len(ids) == 0 {
		return report, nil
	}
	return report, wrapRemote(r.r.Drop(ctx, ids...))
}

func lockReason(until time.Time) string {
	if until.IsZero() {
		return "the bucket's object lock keeps it"
	}
	return "the bucket's object lock keeps it until " + until.Local().Format(time.DateTime)
}

// RemoteGCOptions are the choices of Remote.GC.
type RemoteGCOptions = remote.GCOptions

// RemoteGCReport says what Remote.GC did.
type RemoteGCReport = remote.GCReport

// GC deletes from the bucket what no snapshot there needs: it condemns it first, and deletes what was condemned a grace
// period ago. It is safe beside pushes, prunes and collections of other hosts.
func (r *Remote) GC(ctx context.Context, opts *RemoteGCOptions) (*RemoteGCReport, error) {
	report, err := r.r.GC(ctx, opts)
	return report, wrapRemote(err)
}

// RemoteStats says what a bucket holds. Sizes are in bytes.
type RemoteStats struct {
	Snapshots int   `json:"snapshots"`
	Targets   int   `json:"targets"`
	Logical   int64 `json:"logical"`  // that the snapshots restore to
	Objects   int   `json:"objects"`  // but those that say what the snapshots are
	Bytes     int64 `json:"bytes"`    // of these objects
	Unneeded  int64 `json:"unneeded"` // of these, what no snapshot needs: gc deletes it when it is old enough
}

// Stats sums up what is in the bucket.
func (r *Remote) Stats(ctx context.Context) (*RemoteStats, error) {
	s := &RemoteStats{}
	if r.Snapshots == nil {
		return s, nil
	}
	entries, err := r.Snapshots.list(ctx)
	if err != nil {
		return nil, wrapRemote(err)
	}
	targets := make(map[string]bool)
	for _, e := range entries {
		targets[e.TargetID] = true
		s.Logical += e.Size
	}
	found, err := r.r.GC(ctx, &remote.GCOptions{DryRun: true, Grace: -1})
	if err != nil {
		return nil, wrapRemote(err)
	}
	s.Snapshots, s.Targets = len(entries), len(targets)
	s.Objects, s.Bytes, s.Unneeded = found.Objects, found.Bytes, found.BytesDeleted+found.BytesCondemned
	return s, nil
}

// wrapRemote maps what package remote calls an error to this package's sentinels.
func wrapRemote(err error) error {
	switch {
	case errors.Is(err, remote.ErrCorrupt):
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	case errors.Is(err, remote.ErrVersion):
		return fmt.Errorf("%w: %w", ErrVersion, err)
	case errors.Is(err, remote.ErrNoObject):
		return fmt.Errorf("%w: %w", ErrNotFound, err)
	case errors.Is(err, remote.ErrForeign):
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return wrapManifest(err)
}
