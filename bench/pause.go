package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/arcboxlabs/arcstore"
	"github.com/arcboxlabs/arcstore/bench/guest"
	"github.com/arcboxlabs/arcstore/capture"
)

// pause measures for how long a busy guest of 1 GiB is paused, with and without reading its memory before.
func (b *bench) pause() error {
	state := filepath.Join(filepath.Dir(b.inputs[0]), "A1.devstate")
	if _, err := os.Stat(state); err != nil {
		fmt.Println("pause: it needs a guest that can go on, and -input names memory alone")
		return nil
	}
	dir, err := os.MkdirTemp(b.dir, "pause")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	memory := filepath.Join(dir, "memory")
	if out, err := exec.CommandContext(b.ctx, "cp", "--sparse=always", "--no-preserve=mode", b.inputs[0], memory).CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	image, err := guest.Prepare(b.ctx, "", guest.Busy)
	if err != nil {
		return err
	}
	socket := filepath.Join(dir, "qmp")
	g, err := guest.Start(b.ctx, image, &guest.Options{MemoryPath: memory, Incoming: state, QMPSocket: socket})
	if err != nil {
		return err
	}
	defer g.Close()
	if err := g.Resume(b.ctx); err != nil {
		return err
	}
	store := filepath.Join(dir, "store")
	if err := arcstore.Init(store, nil); err != nil {
		return err
	}
	m, err := arcstore.Open(b.ctx, store, nil)
	if err != nil {
		return err
	}
	defer m.Close()
	q, err := capture.OpenQEMU(b.ctx, socket)
	if err != nil {
		return err
	}
	defer q.Close()
	for _, kind := range []struct{ name, parent string }{{"first", arcstore.ParentNone}, {"next", arcstore.ParentLatest}} {
		if kind.parent == arcstore.ParentLatest {
			if _, err := m.CreateFromGuest(b.ctx, "guest", q, nil); err != nil {
				return err
			}
		}
		t := make(times)
		for range b.rounds {
			for name, ahead := range map[string]bool{"plain": false, "pre-copy": true} {
				if err := b.round(m, q, kind.parent, name, ahead, t); err != nil {
					return err
				}
			}
		}
		plain, ahead := t.median("plain"), t.median("pre-copy")
		b.add(Result{Step: "pause", What: kind.name + " snapshot: pause with pre-copy / without", Value: ahead / plain, Bar: 0.25, AtMost: true,
			Detail: map[string]float64{"pause (s)": plain, "pause with pre-copy (s)": ahead, "create (s)": t.median("plain, all"), "create with pre-copy (s)": t.median("pre-copy, all")}})
	}
	return nil
}

// round takes one snapshot of a guest that has worked for a second since the last one.
func (b *bench) round(m *arcstore.Manager, q *capture.QEMU, parent, name string, ahead bool, t times) error {
	ctx, cancel := context.WithTimeout(b.ctx, time.Second)
	<-ctx.Done()
	cancel()
	target := "guest"
	if parent == arcstore.ParentNone {
		target = "first"
	}
	s, err := m.CreateFromGuest(b.ctx, target, q, &arcstore.GuestOptions{PreCopy: ahead, CreateOptions: arcstore.CreateOptions{Parent: parent}})
	if err != nil {
		return err
	}
	t[name] = append(t[name], s.Cost.Pause.Seconds())
	t[name+", all"] = append(t[name+", all"], s.Cost.Duration.Seconds())
	if parent == arcstore.ParentNone {
		// The next one must store it all again.
		if _, err := m.Delete(b.ctx, s.ID); err != nil {
			return err
		}
		_, err = m.GC(b.ctx, nil)
	}
	return err
}
