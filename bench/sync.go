package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/arcboxlabs/arcstore"
	"github.com/arcboxlabs/arcstore/capture"
	"github.com/arcboxlabs/arcstore/manifest"
	"github.com/arcboxlabs/arcstore/store"
	"github.com/arcboxlabs/arcstore/store/disk"
)

// careless is the operating system's disk without its promises: nothing is
// synced, nor sent to the device ahead of a sync.
type careless struct{ disk.Disk }

func (careless) SyncDir(string) error { return nil }

func (careless) Create(dir string) (disk.File, error) {
	f, err := os.CreateTemp(dir, disk.TempPrefix)
	if err != nil {
		return nil, err
	}
	return carelessFile{f}, nil
}

type carelessFile struct{ *os.File }

func (carelessFile) Sync() error { return nil }

// floors is a store as the library puts it together, on a disk of choice:
// the library itself lets nobody choose one.
type floors struct {
	b         *bench
	store     *store.Store
	manifests *manifest.Files
	catalogue *manifest.Catalogue
}

func (b *bench) openFloors(name string, d disk.Disk) (*floors, error) {
	dir := filepath.Join(b.dir, name)
	if err := os.RemoveAll(dir); err != nil {
		return nil, err
	}
	if err := arcstore.Init(dir, nil); err != nil {
		return nil, err
	}
	s, err := store.Open(b.ctx, dir, store.Options{Disk: d})
	if err != nil {
		return nil, err
	}
	return &floors{b, s, manifest.OpenFiles(filepath.Join(dir, "manifests"), d), manifest.OpenCatalogue(filepath.Join(dir, "snapshots"), d)}, nil
}

// create does what a create does to the disk, in its order; parent may be nil.
func (f *floors) create(file string, parent *manifest.Entry) (_ *manifest.Entry, err error) {
	ctx, size := f.b.ctx, f.store.Config().ChunkSize
	memory, err := capture.OpenFile(file)
	if err != nil {
		return nil, err
	}
	defer memory.Close()
	e := &manifest.Entry{ID: manifest.NewID(), TargetID: "a", TargetType: manifest.VM, State: manifest.Creating}
	var table *manifest.Table
	if parent != nil {
		if table, err = f.manifests.Open(ctx, parent.Manifest); err != nil {
			return nil, err
		}
		defer table.Close()
		e.Parent = parent.ID
	}
	w, err := f.store.NewWriter(ctx)
	if err != nil {
		return nil, err
	}
	defer w.Close()
	builder, err := f.manifests.Build(ctx, size, table)
	if err != nil {
		return nil, err
	}
	if err := f.catalogue.Put(ctx, e, false); err != nil {
		return nil, err
	}
	stats, err := capture.CaptureVM(ctx, &capture.VM{Memory: memory}, w, builder, capture.Options{ChunkSize: size, Parent: table})
	if err != nil {
		return nil, err
	}
	committed := make(chan error, 1)
	go func() {
		var err error
		e.Manifest, err = builder.Commit(ctx)
		committed <- err
	}()
	written, err := w.Commit()
	if err := errors.Join(err, <-committed); err != nil {
		return nil, err
	}
	for _, id := range written.Packs {
		e.Packs = append(e.Packs, id.String())
	}
	e.State, e.Size = manifest.Ready, stats.Size
	return e, f.catalogue.Put(ctx, e, true)
}

// sync measures what it costs that a snapshot is durable, against the same
// creates on a disk that is never told to sync. The library's own creates
// are measured beside them, to show that the two take the same way.
func (b *bench) sync() error {
	if err := warm(b.inputs[0], b.inputs[1]); err != nil {
		return err
	}
	t := make(times)
	for round := range b.rounds {
		ways := []func(times) error{
			func(t times) error { return b.floorsRound(t, "durable", disk.OS) },
			func(t times) error { return b.floorsRound(t, "no fsync", careless{disk.OS}) },
			b.libraryRound,
		}
		for i := range ways { // none is always the first
			if err := ways[(round+i)%len(ways)](t); err != nil {
				return err
			}
		}
	}
	for _, what := range []string{"first", "next"} {
		durable, careless, library := "durable, "+what, "no fsync, "+what, "library, "+what
		b.add(Result{Step: "sync", What: what + " snapshot, durable / without fsync", Value: t.median(durable) / t.median(careless),
			Bar: 1.3, AtMost: true, Detail: t.detail(durable, careless, library)})
	}
	return nil
}

// floorsRound times two creates on a disk. The device has nothing left to do
// before each, be it from a create that did not wait for it.
func (b *bench) floorsRound(t times, name string, d disk.Disk) error {
	f, err := b.openFloors("sync", d)
	if err != nil {
		return err
	}
	var e *manifest.Entry
	for i, what := range []string{"first", "next"} {
		if err == nil {
			err = b.tool("sync")
		}
		if err == nil {
			err = t.measure(name+", "+what, func() (err error) { e, err = f.create(b.inputs[i], e); return err })
		}
	}
	if err := errors.Join(err, f.store.Close()); err != nil {
		return err
	}
	return b.readBack(e.ID)
}

// readBack has the library read what was built without it.
func (b *bench) readBack(id string) error {
	m, err := arcstore.Open(b.ctx, filepath.Join(b.dir, "sync"), &arcstore.Options{ReadOnly: true})
	if err != nil {
		return err
	}
	defer m.Close()
	out := filepath.Join(b.dir, "restored")
	defer os.RemoveAll(out)
	if _, err := m.Restore(b.ctx, id, out, nil); err != nil {
		return fmt.Errorf("read back: %w", err)
	}
	return b.tool("cmp", filepath.Join(out, manifest.MemoryStream), b.inputs[1])
}

func (b *bench) libraryRound(t times) error {
	m, err := b.newStore("sync", "lz4")
	if err != nil {
		return err
	}
	for i, what := range []string{"first", "next"} {
		if err == nil {
			err = b.tool("sync")
		}
		if err == nil {
			err = t.measure("library, "+what, func() error { _, err := snapshot(b.ctx, m, "a", b.inputs[i], nil); return err })
		}
	}
	return errors.Join(err, m.Close())
}
