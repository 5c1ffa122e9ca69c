package remote

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/arcboxlabs/arcstore/chunker"
	"github.com/arcboxlabs/arcstore/manifest"
	"github.com/arcboxlabs/arcstore/store"
)

const (
	// uploadPacks and uploadBytes bound what one upload writes before its index object says so: what was
	// uploaded before an interruption is not sent again.
	uploadPacks = 64
	uploadBytes = 512 << 20
	// pushTries bounds how often a push mends a snapshot whose parts were condemned under it.
	pushTries = 20
)

// PushOptions are the choices of Push.
type PushOptions struct {
	Progress func(done, total int64) // bytes to be uploaded
}

// Pushed says what a push did.
type Pushed struct {
	Pushed  []string // snapshots that are in the bucket now and were not before
	Present []string // those that were there already
	Packs   int      // uploaded
	Bytes   int64    // uploaded, of packs, manifests and index objects
	Mended  int      // how often a collection condemned what was being pushed
	Resumed int      // packs and manifests that an earlier push had sent, and that were not sent again
}

// content is what is pushed.
type content interface {
	// plan says what a snapshot needs, given the chunks and manifests that the bucket has.
	plan(ctx context.Context, e *manifest.Entry, have have) (*plan, error)
}

// have is what a bucket has, for a plan.
type have interface {
	// Find returns the pack that holds a chunk.
	Find(id *chunker.ID) (pack store.PackID, found bool, err error)
	// Manifest reports whether a manifest is there.
	Manifest(d manifest.Digest) bool
}

// plan is what a snapshot needs. close must be called when it was carried out.
type plan struct {
	packs     []store.PackID    // that hold its chunks, in the bucket or among what is uploaded
	manifests []manifest.Digest // likewise, its own first
	// near returns a snapshot's Near, once all is uploaded; nil where nobody knows.
	near   func(ctx context.Context) ([][]int, error)
	upload []source
	close  func()
}

// source is a pack or a manifest that is to be uploaded.
type source struct {
	kind  string // packsPrefix or manifestsPrefix
	name  [32]byte
	size  int64
	table []byte // of a pack
	open  func() (readerAtCloser, error)
}

type readerAtCloser interface {
	io.ReaderAt
	io.Closer
}

// push makes sure that the snapshots are in the bucket. When it returns without an error, nothing that any other
// host does from then on takes a part of them away.
func (r *Remote) push(ctx context.Context, from content, entries []*manifest.Entry, opts *PushOptions) (*Pushed, error) {
	if opts == nil {
		opts = &PushOptions{}
	}
	p := &pusher{r: r, from: from, opts: opts}
	if err := r.sync(ctx); err != nil {
		return &p.done, err
	}
	if err := p.resume(ctx); err != nil {
		return &p.done, err
	}
	for _, e := range entries {
		if err := p.push(ctx, e); err != nil {
			return &p.done, fmt.Errorf("remote: push %s: %w", e.ID, err)
		}
	}
	return &p.done, nil
}

// pusher is a push under way.
type pusher struct {
	r     *Remote
	from  content
	opts  *PushOptions
	done  Pushed
	total int64
	mu    sync.Mutex // guards done.Bytes while parts are uploaded

	unfinished uploadID       // that a push which was cut off began; zero for none
	sent       map[part]int64 // what there is of it, and the sizes
}

// pendingKey is where the cache has the ID of the upload that is under way.
const pendingKey = "pending"

// resume looks for what an earlier push sent without coming to the index object.
func (p *pusher) resume(ctx context.Context) error {
	id, err := parseUploadID(string(p.r.cache.get(pendingKey)))
	if err != nil || p.r.view.dead.uploads[id] || p.r.view.uploads[id] != nil || p.r.now().Sub(id.begun()) > p.r.uploadLife/2 {
		return nil
	}
	p.unfinished, p.sent = id, make(map[part]int64)
	for _, kind := range []string{packsPrefix, manifestsPrefix} {
		err := p.r.bucket.List(ctx, kind+id.String()+"/", func(o Object) error {
			if at, err := parsePart(o.Key); err == nil {
				p.sent[at] = o.Size
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("remote: %w", err)
		}
	}
	return nil
}

// push makes sure that one snapshot is there, and whole. It writes the snapshot's object and looks only afterwards
// whether a part of it was condemned: a collection records what it condemns, and looks only afterwards which
// snapshots there are. Whichever comes second sees the other.
func (p *pusher) push(ctx context.Context, e *manifest.Entry) error {
	old, err := p.present(ctx, e)
	if err != nil {
		return err
	}
	whole := func(s *Snapshot) bool { return len(p.r.view.lost(s.parts())) == 0 }
	if slices.ContainsFunc(old, whole) {
		p.done.Present = append(p.done.Present, e.ID)
		return p.replace(ctx, slices.DeleteFunc(old, whole))
	}
	for range pushTries {
		s, err := p.publish(ctx, e)
		if errors.Is(err, fs.ErrNotExist) {
			continue // a pack that a sweep of the store replaced meanwhile
		}
		if err != nil {
			return err
		}
		if err := p.r.sync(ctx); err != nil {
			return err
		}
		if whole(s) {
			p.done.Pushed = append(p.done.Pushed, e.ID)
			return p.replace(ctx, old)
		}
		p.done.Mended++
		old = append(old, s)
	}
	return fmt.Errorf("what it needs was condemned %d times while it was pushed: is there a gc that has a grace period of less than a push takes?", pushTries)
}

// present reads the objects that the snapshot has in the bucket.
func (p *pusher) present(ctx context.Context, e *manifest.Entry) ([]*Snapshot, error) {
	var found []*Snapshot
	err := p.r.readSnapshots(ctx, p.r.view.snapshots[e.ID], func(s *Snapshot) { found = append(found, s) })
	return found, err
}

// replace deletes objects of a snapshot that has a sound one now.
func (p *pusher) replace(ctx context.Context, old []*Snapshot) error {
	var keys []string
	for _, s := range old {
		keys = append(keys, s.key)
	}
	kept, err := p.r.retained(ctx, keys)
	if err != nil {
		return fmt.Errorf("remote: %w", err)
	}
	rec := &record{Time: p.r.now()}
	for _, key := range keys {
		if _, ok := kept[key]; !ok {
			rec.Snapshots = append(rec.Snapshots, key)
		}
	}
	if err := p.r.deleteSnapshots(ctx, rec); !errors.Is(err, ErrRetained) {
		return err
	}
	return nil
}

// publish uploads what the bucket lacks of a snapshot, and then the object that names all of it.
func (p *pusher) publish(ctx context.Context, e *manifest.Entry) (*Snapshot, error) {
	v := p.r.view
	plan, err := p.from.plan(ctx, e, p.r)
	if err != nil {
		return nil, err
	}
	defer plan.close()
	for _, s := range plan.upload {
		p.total += s.size
	}
	p.progress(0)
	for rest := plan.upload; len(rest) > 0; {
		n := batch(rest)
		if err := p.upload(ctx, rest[:n]); err != nil {
			return nil, err
		}
		rest = rest[n:]
	}
	entry := *e
	entry.Packs = nil // of the store
	s := &Snapshot{Entry: &entry}
	s.Host, _ = os.Hostname()
	for _, id := range plan.packs {
		u := v.packs[id]
		at := v.uploads[u].pack(id)
		s.Packs = append(s.Packs, Pack{ID: id.String(), Upload: u, Size: at.size, Table: at.tableSize})
	}
	if plan.near != nil {
		if s.Near, err = plan.near(ctx); err != nil {
			return nil, err
		}
	}
	for _, d := range plan.manifests {
		s.Manifests = append(s.Manifests, v.manifests[d])
	}
	s.key = snapshotKey(e.ID, newUploadID(p.r.now()))
	b, err := s.encode(s.key, p.r.sealer)
	if err != nil {
		return nil, err
	}
	return s, p.r.put(ctx, s.key, b)
}

// batch returns how many of the sources one upload takes.
func batch(sources []source) int {
	bytes := int64(0)
	for i, s := range sources {
		if bytes += s.size; i > 0 && (i >= uploadPacks || bytes > uploadBytes) {
			return i
		}
	}
	return len(sources)
}

// upload uploads parts, and then the index object that lets everybody use them.
func (p *pusher) upload(ctx context.Context, sources []source) error {
	id, sent := p.unfinished, p.sent
	if p.unfinished = (uploadID{}); id == p.unfinished {
		id, sent = newUploadID(p.r.now()), nil
		p.r.cache.put(pendingKey, []byte(id.String()))
	}
	u := &upload{}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(uploads)
	for _, s := range sources {
		switch s.kind {
		case packsPrefix:
			u.packs = append(u.packs, uploadedPack{id: s.name, size: s.size, table: s.table})
		case manifestsPrefix:
			u.manifests = append(u.manifests, uploadedManifest{digest: s.name, size: s.size})
		}
		if sent[part{id, s.kind, s.name}] == s.size {
			p.done.Resumed++
			continue
		}
		if s.kind == packsPrefix {
			p.done.Packs++
		}
		g.Go(func() error {
			body, err := s.open()
			if err != nil {
				return err
			}
			defer body.Close()
			err = p.r.bucket.Put(gctx, part{id, s.kind, s.name}.key(), body, s.size)
			if err != nil && !errors.Is(err, ErrObjectExists) { // a request of ours that was thought to have failed
				return err
			}
			p.progress(s.size)
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	key := indexKey(id)
	b := u.encode(key, p.r.sealer)
	if err := p.r.put(withExpiry(ctx, id.begun().Add(p.r.uploadLife)), key, b); err != nil {
		return err
	}
	p.r.cache.drop(pendingKey)
	p.done.Bytes += int64(len(b))
	return p.r.learn(ctx, id, b)
}

// uploadLife is how long an upload may take until its index object is written. Where it took longer, records may have
// been forgotten that said it is dead, and it must not seem to be alive.
const uploadLife = 24 * time.Hour

// uploads is how many objects are uploaded at once.
const uploads = 4

func (p *pusher) progress(n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done.Bytes += n
	if p.opts.Progress != nil {
		p.opts.Progress(p.done.Bytes, p.total)
	}
}

// put writes a small object.
func (r *Remote) put(ctx context.Context, key string, b []byte) error {
	err := r.bucket.Put(ctx, key, bytes.NewReader(b), int64(len(b)))
	if errors.Is(err, ErrObjectExists) {
		return nil // by a request of ours that was thought to have failed: keys are never used twice
	}
	if err == nil {
		r.cache.put(key, b)
	}
	return err
}

// learn adds an upload of our own to the view.
func (r *Remote) learn(ctx context.Context, id uploadID, object []byte) error {
	u, err := decodeUpload(indexKey(id), object, r.sealer)
	if err != nil {
		return err
	}
	r.view.add(id, u)
	chunks, err := r.chunks()
	if err != nil {
		return err
	}
	return chunks.Set(ctx, r.view.packIDs())
}

// Find implements have.
func (r *Remote) Find(id *chunker.ID) (store.PackID, bool, error) { return r.finder.Find(id) }

// Manifest implements have.
func (r *Remote) Manifest(d manifest.Digest) bool {
	_, ok := r.view.manifests[d]
	return ok
}

// readSnapshots calls use with the snapshots' objects, in no order. Those that were deleted meanwhile are left out.
func (r *Remote) readSnapshots(ctx context.Context, keys []string, use func(*Snapshot)) error {
	return r.cache.each(ctx, existing{r.bucket}, keys, maxSnapshot, func(key string, b []byte) error {
		if b == nil {
			return nil
		}
		s, err := decodeSnapshot(key, b, r.sealer)
		if err == nil {
			use(s)
		}
		return err
	})
}

// existing is a bucket in which an object that does not exist is empty.
type existing struct{ Bucket }

func (e existing) Read(ctx context.Context, key string, limit int64) ([]byte, error) {
	b, err := e.Bucket.Read(ctx, key, limit)
	if errors.Is(err, ErrNoObject) {
		return nil, nil
	}
	return b, err
}
