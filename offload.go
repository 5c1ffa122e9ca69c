package arcstore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/arcboxlabs/arcstore/capture"
	"github.com/arcboxlabs/arcstore/capture/offload"
	"github.com/arcboxlabs/arcstore/manifest"
	"github.com/arcboxlabs/arcstore/restore"
)

// Offload is a guest that a Cloud Hypervisor hands over: vm.send-migration with local=on and destination_url=unix: and the socket.
type Offload struct {
	Socket string `json:"socket"` // path of the socket to make, at which this waits
}

// createFromOffload waits until a Cloud Hypervisor offers its guest.
func (m *Manager) createFromOffload(ctx context.Context, target string, from *Offload, opts *CreateOptions, events *Events) (*Snapshot, error) {
	if m.readOnly {
		return nil, ErrReadOnly
	}
	l, err := offload.Listen(from.Socket)
	if err != nil {
		return nil, fmt.Errorf("arcstore: %w", err)
	}
	defer l.Close()
	events.Say("waits at " + from.Socket + " for a Cloud Hypervisor to hand its guest over")
	for {
		conn, err := l.Accept(ctx)
		if errors.Is(err, offload.ErrStranger) {
			events.Alarm(err.Error())
			continue
		}
		if err != nil {
			return nil, err
		}
		s, err := m.CreateFromOffload(ctx, target, conn, opts)
		if !errors.Is(err, capture.ErrNoOffer) {
			return s, err
		}
	}
}

// CreateFromOffload takes the snapshot of a guest that a Cloud Hypervisor hands over on conn, which it closes; offload.Listen makes the socket, and looks at
// who comes. The guest stays paused until the
// snapshot is durable, and only then Cloud Hypervisor is told that all is well; where anything fails, it is told so, and goes on with its guest as
// before. When it returns without an error, the snapshot is durable and ready. With an error there is none, but for one case: where Cloud Hypervisor
// could not be told, both are returned.
func (m *Manager) CreateFromOffload(ctx context.Context, target string, conn *offload.Conn, opts *CreateOptions) (s *Snapshot, err error) {
	offer, err := capture.TakeCloudOffer(ctx, conn)
	if err != nil {
		return nil, wrapCreate(err)
	}
	defer offer.Close()
	if opts == nil {
		opts = &CreateOptions{}
	}
	opts, observed := m.observeCreate(target, opts)
	defer func() { observed(s, err) }()
	return m.create(ctx, target, manifest.VM, opts, func(c *creation) error {
		return offer.Capture(ctx, c.writer, c.builder, c.options(opts), func(stats capture.Stats) error {
			return c.commit(ctx, stats)
		})
	})
}

// OffloadOptions are the choices of a RestoreOffload; nil or the zero value hands over all memory, and leaves the guest paused.
type OffloadOptions struct {
	// OnDemand hands over memory that is empty, and fills it as Cloud Hypervisor asks for it, which must have been told memory_mode=postcopy.
	OnDemand bool
	// Resume lets the guest run.
	Resume bool
	// Wait is how long to wait for Cloud Hypervisor to listen; 0 does not.
	Wait time.Duration
	// Progress is called from one goroutine at a time; nil for none.
	Progress func(Progress)
	// Note is told in words what happens; nil is nobody.
	Note func(string)
}

// OffloadReport says what a RestoreOffload did.
type OffloadReport struct {
	Snapshot    string        `json:"snapshot"`
	Bytes       int64         `json:"bytes"`        // of the guest's memory, holes included
	BytesServed int64         `json:"bytes_served"` // of it, handed over: with OnDemand, what was asked for
	Faults      int64         `json:"faults"`       // requests for memory
	Paused      time.Duration `json:"paused_ns"`    // until Cloud Hypervisor had the guest
	Duration    time.Duration `json:"duration_ns"`
}

// RestoreOffload hands a snapshot that was taken by CreateFromOffload to the Cloud Hypervisor that listens at socket, where it was told so by
// vm.receive-migration. It needs no lock and no index. With OnDemand it returns when Cloud Hypervisor has all of the memory, or is gone: a guest whose
// memory is not complete ends when ctx does. The snapshot may be deleted meanwhile, but from a bucket. What is damaged is refused, and named in the error
// at the end, which comes with a report: no wrong byte is handed over.
func (m *Manager) RestoreOffload(ctx context.Context, ref, socket string, opts *OffloadOptions) (report *OffloadReport, err error) {
	defer ended(m, "restore", ref, time.Now(), &report, &err)
	if opts == nil {
		opts = &OffloadOptions{}
	}
	start := time.Now()
	r, err := m.OpenSnapshot(ctx, ref)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	config, err := r.description(capture.CloudHypervisorPrefix+capture.CloudHypervisorMigration, offload.MaxDocument)
	if err != nil {
		return nil, err
	}
	state, err := r.description(capture.CloudHypervisorPrefix+"state.json", offload.MaxDocument)
	if err != nil {
		return nil, err
	}
	if config == nil || state == nil {
		return nil, fmt.Errorf("arcstore: snapshot %s: %w: it was not handed over by Cloud Hypervisor", r.entry.ID, ErrOtherKind)
	}
	memory, err := r.Stream(memoryStream)
	if err != nil {
		return nil, err
	}
	guest, err := restore.NewOffload(config, memory.Size())
	if err != nil {
		return nil, fmt.Errorf("arcstore: snapshot %s: %w", r.entry.ID, err)
	}
	defer guest.Close()
	o := restore.OffloadOptions{State: state, Resume: opts.Resume, Wait: opts.Wait}
	report = &OffloadReport{Snapshot: r.entry.ID, Bytes: memory.Size()}
	told := func(done int64) {
		if opts.Progress != nil {
			opts.Progress(Progress{Phase: "restore", Done: done, Total: memory.Size()})
		}
	}
	if opts.OnDemand {
		lazy, err := m.OpenLazy(ctx, r.entry.ID)
		if err != nil {
			return nil, err
		}
		defer lazy.Close()
		pages, err := lazy.Stream(memoryStream)
		if err != nil {
			return nil, err
		}
		o.Pages, o.Progress = pages, told
	} else {
		written, err := m.RestoreTo(ctx, r.entry.ID, memoryStream, guest, false, &RestoreOptions{Progress: opts.Progress})
		if err != nil {
			return nil, err
		}
		report.BytesServed = written.Bytes
	}
	o.Handed = func() {
		report.Paused = time.Since(start)
		if opts.Note != nil {
			opts.Note("Cloud Hypervisor has the guest")
		}
	}
	done, err := guest.Send(ctx, socket, o)
	if opts.OnDemand {
		report.BytesServed, report.Faults = done.Bytes, done.Faults
	}
	report.Duration = time.Since(start)
	if err != nil && !done.Handed {
		return nil, err
	}
	return report, err
}
