package arcstore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/arcboxlabs/arcstore/capture"
	"github.com/arcboxlabs/arcstore/manifest"
)

// Guest is a running VM, as the driver of its VMM gives it, such as capture.QEMU or capture.Firecracker.
type Guest = capture.Guest

// GuestOptions are the choices of CreateFromGuest.
type GuestOptions struct {
	CreateOptions
	// PreCopy reads the memory while the guest runs, and again when it is paused: then only what changed meanwhile is
	// compressed and stored, and the pause is shorter.
	PreCopy bool
}

// CreateFromGuest pauses a running guest, snapshots it as target, and resumes it as soon as its memory was read or copied, whatever goes
// wrong. For how long it was paused is in the snapshot's Cost. When it returns without an error the snapshot is durable and ready;
// where the guest could not be resumed after that, both are returned.
func (m *Manager) CreateFromGuest(ctx context.Context, target string, g Guest, opts *GuestOptions) (s *Snapshot, err error) {
	if opts == nil {
		opts = &GuestOptions{}
	}
	watched, observed := m.observeCreate(target, &opts.CreateOptions)
	defer func() { observed(s, err) }()
	create := *watched
	if create.Dirty != nil {
		return nil, fmt.Errorf("arcstore: %w: of a running guest its driver says what is dirty", ErrInvalid)
	}
	if opts.PreCopy && g.Memory() == nil {
		return nil, fmt.Errorf("arcstore: %w: the memory of this guest cannot be read while it runs", ErrInvalid)
	}
	if !opts.PreCopy {
		return m.createPaused(ctx, target, g, &create)
	}
	var done *Snapshot
	_, err = m.create(ctx, target, manifest.VM, &create, func(c *creation) error {
		// What this one holds of packs and manifests stays until it ends, which is after the other one. Its own entry never becomes ready.
		ahead := capture.ReadAhead(g.Memory())
		vm := &VM{Memory: ahead}
		stats, err := capture.CaptureVM(ctx, vm, c.writer, c.builder, c.options(&create))
		if err != nil {
			return err
		}
		digest, err := c.builder.Commit(ctx)
		if err != nil {
			return err
		}
		written, err := c.writer.Commit()
		if err != nil {
			return err
		}
		final := create
		final.preCopied = &preCopied{ahead: ahead, manifest: digest, parent: c.parent, packs: packNames(written.Packs, c.parent), cost: manifest.Cost{
			BytesScanned: stats.Scanned, BytesNew: written.Bytes, BytesStored: written.Stored, ChunksNew: written.Chunks, Duration: time.Since(c.start)}}
		done, err = m.createPaused(ctx, target, g, &final)
		return err
	})
	return done, err
}

// preCopied is memory that was read while its guest ran. A snapshot is built on it in place of its parent.
type preCopied struct {
	ahead    *capture.Ahead
	manifest manifest.Digest
	parent   *Snapshot // the real one, nil for none
	packs    []string
	cost     manifest.Cost
}

// asParent returns it as the parent of the snapshot that is built on it. Its ID is the real parent's.
func (p *preCopied) asParent() *Snapshot {
	s := &Snapshot{TargetType: manifest.VM, State: manifest.Ready, Manifest: p.manifest, Packs: p.packs}
	if p.parent != nil {
		s.ID = p.parent.ID
	}
	return s
}

// createPaused pauses, captures and resumes.
func (m *Manager) createPaused(ctx context.Context, target string, g Guest, opts *CreateOptions) (*Snapshot, error) {
	return m.create(ctx, target, manifest.VM, opts, func(c *creation) (err error) {
		dir, err := m.stage(c.entry.ID)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, m.unstage(dir)) }()
		stats, paused, err := capture.CaptureGuest(ctx, g, dir, c.writer, c.builder, c.options(opts))
		if err != nil {
			return err
		}
		c.entry.Cost.Pause = paused.Round(time.Microsecond)
		return c.commit(ctx, stats)
	})
}
