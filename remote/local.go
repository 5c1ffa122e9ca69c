package remote

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"

	"github.com/arcboxlabs/arcstore/chunker"
	"github.com/arcboxlabs/arcstore/manifest"
	"github.com/arcboxlabs/arcstore/store"
	"github.com/arcboxlabs/arcstore/store/crypt"
)

// wholePack is how much of a pack's chunks must be wanted for it to be uploaded as it is.
const wholePack = 0.75

// tableStep is how many entries of a page table are read at once.
const tableStep = 16 << 10

// Local is what a push takes snapshots from: a store, which may be written to meanwhile, and its manifests.
type Local struct {
	Store     *store.Store
	Manifests *manifest.Files
	Scratch   string // a directory for packs that are made for the bucket; it is removed in the end
}

// Push makes sure that the snapshots are in the bucket, oldest first, with all that they need. Only chunks that
// the bucket lacks are sent. When it returns without an error, nothing that any other host does takes a part of them
// away, except for deleting them. After an error, what was sent need not be sent again.
func (r *Remote) Push(ctx context.Context, from *Local, entries []*manifest.Entry, opts *PushOptions) (*Pushed, error) {
	if err := r.join(ctx, from); err != nil {
		return &Pushed{}, err
	}
	return r.push(ctx, from, entries, opts)
}

// plan implements content.
func (l *Local) plan(ctx context.Context, e *manifest.Entry, have have) (*plan, error) {
	t, err := l.Manifests.Open(ctx, e.Manifest)
	if err != nil {
		return nil, err
	}
	defer t.Close()
	p := &planner{l: l, have: have, used: make(map[store.PackID]int64), selection: l.Store.NewSelection(hints(e))}
	p.plan.close = p.close
	err = p.chunks(ctx, t)
	if err == nil {
		err = p.packs(ctx)
	}
	if err == nil {
		err = p.manifests(ctx, t.Layers())
	}
	if err != nil {
		p.close()
		return nil, err
	}
	// Who restores the snapshot looks first where its beginning is.
	p.plan.packs = slices.SortedFunc(maps.Keys(p.used), func(a, b store.PackID) int {
		return cmp.Or(cmp.Compare(p.used[a], p.used[b]), slices.Compare(a[:], b[:]))
	})
	p.plan.near = func(ctx context.Context) ([][]int, error) { return l.near(ctx, e, p.plan.packs, have) }
	return &p.plan, nil
}

// near finds out in which packs parts of a snapshot's memory are.
func (l *Local) near(ctx context.Context, e *manifest.Entry, packs []store.PackID, have have) ([][]int, error) {
	t, err := l.Manifests.Open(ctx, e.Manifest)
	if err != nil {
		return nil, err
	}
	defer t.Close()
	st, err := t.Stream(manifest.MemoryStream)
	if err != nil {
		return nil, nil // it has none
	}
	number := make(map[store.PackID]int, len(packs))
	for i, id := range packs {
		number[id] = i
	}
	var near [][]int
	ids := make([]chunker.ID, NearChunks)
	for first := int64(0); first < st.Len(); first += NearChunks {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		part := ids[:min(NearChunks, st.Len()-first)]
		if err := st.Lookup(first, part); err != nil {
			return nil, err
		}
		here := []int{}
		last := store.PackID{}
		for i := range part {
			if part[i].IsHole() {
				continue
			}
			pack, found, err := have.Find(&part[i])
			if err != nil {
				return nil, err
			}
			if n, ok := number[pack]; found && ok && pack != last && !slices.Contains(here, n) {
				here = append(here, n)
			}
			last = pack
		}
		near = append(near, here)
	}
	return near, nil
}

// hints returns the packs that the catalogue names.
func hints(e *manifest.Entry) []store.PackID {
	var ids []store.PackID
	for _, name := range e.Packs {
		if id, err := store.ParsePackID(name); err == nil {
			ids = append(ids, id)
		}
	}
	return ids
}

// planner is a plan being made.
type planner struct {
	l         *Local
	have      have
	plan      plan
	used      map[store.PackID]int64 // by pack: the first chunk of the snapshot that it serves
	first     []int64                // by pack of the selection, likewise
	seen      int64                  // chunks so far
	selection *store.Selection       // what the bucket lacks
	scratch   *store.Store
}

func (p *planner) close() {
	p.selection.Close()
	if p.scratch != nil {
		p.scratch.Close()
		os.RemoveAll(p.l.Scratch)
	}
}

// chunks finds out which chunks the bucket lacks.
func (p *planner) chunks(ctx context.Context, t *manifest.Table) error {
	buf := make([]chunker.ID, tableStep)
	lacks := make([]chunker.ID, 0, tableStep)
	streams := t.Streams()
	if i := slices.IndexFunc(streams, func(s manifest.Stream) bool { return s.Name == manifest.MemoryStream }); i > 0 {
		streams[0], streams[i] = streams[i], streams[0] // what a guest needs first
	}
	for _, s := range streams {
		st, err := t.Stream(s.Name)
		if err != nil {
			return err
		}
		for first := int64(0); first < st.Len(); first += tableStep {
			part := buf[:min(tableStep, st.Len()-first)]
			if err := st.Lookup(first, part); err != nil {
				return err
			}
			lacks = lacks[:0]
			firstLack := p.seen
			for i := range part {
				if part[i].IsHole() {
					continue
				}
				pack, found, err := p.have.Find(&part[i])
				if err != nil {
					return err
				}
				if found {
					p.serves(pack, p.seen+int64(i))
				} else {
					if len(lacks) == 0 {
						firstLack += int64(i)
					}
					lacks = append(lacks, part[i])
				}
			}
			if err := p.selection.Add(ctx, lacks); err != nil {
				return err
			}
			for k := int64(0); len(p.first) < len(p.selection.Packs()); k++ { // about: they come in this order
				p.first = append(p.first, firstLack+k)
			}
			p.seen += int64(len(part))
		}
	}
	return nil
}

// packs says which packs are uploaded: those of the store that the bucket lacks almost as a whole, and new ones that hold
// what it lacks of the others.
func (p *planner) packs(ctx context.Context) error {
	var parts []*store.Selected
	gathered := p.seen // the first chunk of those
	for i, s := range p.selection.Packs() {
		if s.Share() < wholePack {
			parts, gathered = append(parts, s), min(gathered, p.first[i])
			continue
		}
		err := p.pack(ctx, p.l.Store, s.ID, p.first[i])
		if errors.Is(err, store.ErrCorrupt) {
			parts, gathered = append(parts, s), min(gathered, p.first[i]) // other copies may be whole
			continue
		}
		if err != nil {
			return err
		}
	}
	if len(parts) == 0 {
		return nil
	}
	return p.gather(ctx, parts, gathered)
}

// gather makes packs of what was selected of some, which serves the snapshot from a chunk on.
func (p *planner) gather(ctx context.Context, parts []*store.Selected, first int64) error {
	if err := os.RemoveAll(p.l.Scratch); err != nil {
		return fmt.Errorf("remote: %w", err)
	}
	key := p.l.Store.Key()
	if _, err := store.InitEncrypted(p.l.Scratch, p.l.Store.Config(), key, nil, nil); err != nil {
		return err
	}
	var err error
	if p.scratch, err = store.Open(ctx, p.l.Scratch, store.Options{Unlock: func(*store.Encryption) (*crypt.Key, error) { return key, nil }}); err != nil {
		return err
	}
	w, err := p.scratch.NewWriter(ctx)
	if err != nil {
		return err
	}
	defer w.Close()
	for _, s := range parts {
		if err := p.selection.Copy(ctx, s, w); err != nil {
			return err
		}
	}
	written, err := w.Commit()
	if err != nil {
		return err
	}
	for _, id := range written.Packs {
		if err := p.pack(ctx, p.scratch, id, first); err != nil {
			return err
		}
	}
	return nil
}

// pack adds a pack to what is uploaded, once it is known to be whole.
func (p *planner) pack(ctx context.Context, from *store.Store, id store.PackID, first int64) error {
	f, err := from.OpenPack(ctx, id, true)
	if err != nil {
		return err
	}
	f.File.Close()
	p.serves(id, first)
	p.plan.upload = append(p.plan.upload, source{kind: packsPrefix, name: id, size: f.Size, table: f.Table, open: func() (readerAtCloser, error) {
		f, err := from.OpenPack(ctx, id, false)
		if err != nil {
			return nil, err
		}
		return f.File, nil
	}})
	return nil
}

// serves notes that a pack serves a chunk of the snapshot.
func (p *planner) serves(id store.PackID, chunk int64) {
	if first, ok := p.used[id]; !ok || chunk < first {
		p.used[id] = chunk
	}
}

// manifests says which manifests are uploaded.
func (p *planner) manifests(ctx context.Context, layers []manifest.Digest) error {
	p.plan.manifests = layers
	for _, d := range layers {
		if p.have.Manifest(d) {
			continue
		}
		if err := p.l.Manifests.Verify(ctx, d); err != nil {
			return err
		}
		size, err := p.l.Manifests.Size(d)
		if err != nil {
			return err
		}
		p.plan.upload = append(p.plan.upload, source{kind: manifestsPrefix, name: d, size: size, open: func() (readerAtCloser, error) {
			return p.l.Manifests.OpenFile(d)
		}})
	}
	return nil
}
