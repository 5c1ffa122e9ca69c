package arcstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/arcboxlabs/arcstore/manifest"
	"github.com/arcboxlabs/arcstore/store"
)

// PullOptions are the choices of Pull.
type PullOptions struct {
	Progress func(Progress) // bytes of all streams
}

// PullReport says what a pull did. Sizes are in bytes.
type PullReport struct {
	Pulled     []string      `json:"pulled"`  // IDs of snapshots that were not in the store, and now are
	Present    []string      `json:"present"` // those that were there before
	ChunksNew  int64         `json:"chunks_new"`
	BytesNew   int64         `json:"bytes_new"`   // of chunks that the store lacked, uncompressed
	BytesRead  int64         `json:"bytes_read"`  // of packs in the bucket
	BytesAdded int64         `json:"bytes_added"` // of packs written
	Duration   time.Duration `json:"duration_ns"`
}

// Pull copies snapshots from the bucket into m, with their IDs. Only chunks are fetched that m lacks; every
// byte is verified. Those that it returns without an error for are durable and ready.
func (m *Manager) Pull(ctx context.Context, r *Remote, refs []string, opts *PullOptions) (report *PullReport, err error) {
	defer ended(m, "pull", "", time.Now(), &report, &err)
	if opts == nil {
		opts = &PullOptions{}
	}
	if err := m.canPull(r); err != nil {
		return nil, err
	}
	start := time.Now()
	report = &PullReport{Pulled: []string{}, Present: []string{}}
	for _, ref := range refs {
		e, err := r.Snapshots.getComplete(ctx, ref)
		if err != nil {
			return report, err
		}
		if own, err := m.catalogue.Get(ctx, e.ID); err == nil && own.State == manifest.Ready {
			report.Present = append(report.Present, e.ID)
			continue
		}
		p := &pull{m: m, from: r.Snapshots, entry: e, opts: opts, report: report}
		if err := p.run(ctx); err != nil {
			return report, fmt.Errorf("arcstore: pull %s: %w", e.ID, err)
		}
		if b, err := r.Snapshots.working.File(ctx, e.ID); err == nil {
			m.working.Import(ctx, e.ID, b) // what is lost is recorded again
		}
		report.Pulled = append(report.Pulled, e.ID)
	}
	report.Duration = time.Since(start)
	return report, nil
}

// canPull reports why what is in a bucket cannot come into the store, if it cannot.
func (m *Manager) canPull(r *Remote) error {
	switch {
	case m.readOnly:
		return ErrReadOnly
	case r.Snapshots == nil:
		return fmt.Errorf("arcstore: %w: nothing was pushed to the bucket yet", ErrNotFound)
	case r.Snapshots.ChunkSize() != m.ChunkSize():
		return fmt.Errorf("arcstore: %w: the bucket has chunks of %d bytes, and the store of %d: pull into a store made with init --from-remote",
			ErrInvalid, r.Snapshots.ChunkSize(), m.ChunkSize())
	case !r.r.Key().Equal(m.store.Key()):
		return fmt.Errorf("arcstore: %w: the store does not have the bucket's key: pull into a store made with init --from-remote", ErrInvalid)
	}
	return nil
}

// pull is one snapshot on its way into the store.
type pull struct {
	m, from *Manager
	entry   *Snapshot
	opts    *PullOptions
	report  *PullReport
	local   bool // its page tables are the store's own

	writer *store.Writer
	done   int64
	data   [][]byte // chunks that were fetched, in
	arena  []byte
}

// pullBytes is how much is fetched before it is written, in bytes.
const pullBytes = 16 << 20

func (p *pull) run(ctx context.Context) error {
	table, err := p.from.openTable(ctx, p.entry)
	if err != nil {
		return err
	}
	defer table.Close()
	return p.copy(ctx, table)
}

// copy gets the chunks that the store lacks of what the table names, and the rest.
func (p *pull) copy(ctx context.Context, table *manifest.Table) (err error) {
	layers := table.Layers()
	defer p.register(layers)()
	if p.writer, err = p.m.store.NewWriter(ctx); err != nil {
		return err
	}
	defer p.writer.Close()
	chunks := p.from.store.NewFetcher(packIDs(p.entry.Packs))
	defer chunks.Close()
	for _, s := range table.Streams() {
		if err := p.stream(ctx, table, s.Name, chunks); err != nil {
			return err
		}
	}
	_, read := chunks.FramesRead()
	p.report.BytesRead += read
	return p.commit(ctx, layers)
}

// register keeps garbage collections from what is on its way.
func (p *pull) register(layers []manifest.Digest) (end func()) {
	m := p.m
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, d := range layers {
		m.parents[d]++
	}
	m.running[p.entry.ID] = true
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		for _, d := range layers {
			if m.parents[d]--; m.parents[d] == 0 {
				delete(m.parents, d)
			}
		}
		delete(m.running, p.entry.ID)
	}
}

// stream fetches the chunks of a stream that the store lacks.
func (p *pull) stream(ctx context.Context, table *manifest.Table, name string, chunks *store.Fetcher) error {
	t, err := table.Stream(name)
	if err != nil {
		return err
	}
	size := p.m.ChunkSize()
	var lacks []ChunkID
	flush := func() error {
		for part := range slices.Chunk(lacks, max(1, pullBytes/size)) {
			if err := p.fetch(ctx, part, chunks); err != nil {
				return err
			}
		}
		lacks = lacks[:0]
		return nil
	}
	err = eachEntry(ctx, t, func(first int64, ids []ChunkID) error {
		for _, id := range ids {
			if id.IsHole() {
				continue
			}
			has, err := p.writer.Has(id)
			if err != nil {
				return err
			}
			if !has {
				lacks = append(lacks, id)
			}
		}
		p.done += min(int64(len(ids)*size), t.Size()-first*int64(size))
		if p.opts.Progress != nil {
			p.opts.Progress(Progress{Phase: "pull", Done: p.done, Total: p.entry.Size})
		}
		if len(lacks)*size >= pullBytes {
			return flush()
		}
		return nil
	})
	if err != nil {
		return err
	}
	return flush()
}

// fetch gets chunks and puts them into the store, in their order.
func (p *pull) fetch(ctx context.Context, ids []ChunkID, chunks *store.Fetcher) error {
	size := p.m.ChunkSize()
	if p.arena == nil {
		p.data, p.arena = make([][]byte, max(1, pullBytes/size)), make([]byte, max(pullBytes, size))
	}
	data, arena := p.data[:len(ids)], p.arena
	err := chunks.Fetch(ctx, ids, func(i int, b []byte) error {
		for ; len(b) > 0; i++ {
			n := min(size, len(b)) // a short chunk ends what lies together
			data[i] = arena[i*size:][:copy(arena[i*size:], b[:n])]
			b = b[n:]
		}
		return nil
	})
	if err != nil {
		return err
	}
	for i, id := range ids {
		if p.m.store.Hasher().Sum(data[i]) != id {
			return fmt.Errorf("chunk %s: what came is another", id)
		}
		if err := p.writer.Put(id, data[i]); err != nil {
			return err
		}
	}
	return nil
}

// commit makes everything durable, in the order of a create.
func (p *pull) commit(ctx context.Context, layers []manifest.Digest) error {
	m := p.m
	m.committing.RLock()
	defer m.committing.RUnlock()
	written, err := p.writer.Commit()
	if err != nil {
		return err
	}
	p.report.ChunksNew += written.Chunks
	p.report.BytesNew += written.Bytes
	p.report.BytesAdded += written.Stored
	for _, d := range slices.Backward(layers) {
		if p.local {
			break
		}
		if err := p.manifest(ctx, d); err != nil {
			return err
		}
	}
	e := *p.entry
	e.State = manifest.Ready
	e.Packs = packNames(written.Packs, nil)
	return m.catalogue.Put(ctx, &e, true)
}

// manifest copies a manifest.
func (p *pull) manifest(ctx context.Context, d manifest.Digest) error {
	f, err := p.from.manifests.OpenFile(d)
	if err != nil {
		return err
	}
	size, serr := p.from.manifests.Size(d)
	err = errors.Join(serr, p.m.manifests.Import(ctx, d, f, size))
	f.Close()
	return err
}
