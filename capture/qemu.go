package capture

import (
	"bytes"
	"context"
	"fmt"

	"github.com/arcboxlabs/arcstore/capture/qmp"
	"github.com/arcboxlabs/arcstore/chunker"
	"github.com/arcboxlabs/arcstore/manifest"
)

// VMMQEMU is QEMU's name in the records of snapshots.
const VMMQEMU = "qemu"

// Streams of a QEMU guest, besides its memory.
const (
	// QEMUState is what QEMU's migration writes of a guest, without the memory: a QEMU of the same machine that was started with the
	// memory as a file and -incoming defer reads it with migrate-incoming, and goes on.
	QEMUState = "qemu/devstate"
)

// QEMU is a guest of QEMU's whose memory lies in a file that is shared with it (-object
// memory-backend-file,share=on): it is read in place. Of the other state, QEMU writes a migration without memory.
type QEMU struct {
	client  *qmp.Client
	memory  *File
	stopped bool // by us
}

// OpenQEMU returns the guest of the QEMU whose QMP socket is at path. The guest is not disturbed. It must be closed.
func OpenQEMU(ctx context.Context, path string) (*QEMU, error) {
	client, err := qmp.Dial(ctx, path)
	if err != nil {
		return nil, fmt.Errorf("capture: QEMU at %s: %w", path, err)
	}
	q := &QEMU{client: client}
	if err := q.openMemory(ctx); err != nil {
		client.Close()
		return nil, fmt.Errorf("capture: QEMU at %s: %w", path, err)
	}
	return q, nil
}

func (q *QEMU) openMemory(ctx context.Context) error {
	all, err := q.client.Backends(ctx)
	if err != nil {
		return err
	}
	const how = "start QEMU with -object memory-backend-file,id=ram,size=SIZE,mem-path=FILE,share=on and -machine memory-backend=ram"
	switch {
	case len(all) != 1:
		return fmt.Errorf("%w: the guest has %d memory backends, and arcstore reads one: %s", ErrInvalid, len(all), how)
	case all[0].Path == "" || !all[0].Shared:
		return fmt.Errorf("%w: the guest's memory is not shared with a file: %s", ErrInvalid, how)
	}
	if q.memory, err = OpenFile(all[0].Path); err != nil {
		return err
	}
	if q.memory.Size() != all[0].Size {
		q.memory.Close()
		return fmt.Errorf("%w: %s has %d bytes, and the guest's memory %d", ErrInvalid, all[0].Path, q.memory.Size(), all[0].Size)
	}
	return nil
}

// Close lets go of the guest, and resumes it if it is paused.
func (q *QEMU) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), resumeTimeout)
	defer cancel()
	err := q.Resume(ctx)
	q.client.Close()
	q.memory.Close()
	return err
}

// Memory implements Guest.
func (q *QEMU) Memory() chunker.Source { return q.memory }

// Changed implements Guest: QEMU keeps what is dirty to itself.
func (q *QEMU) Changed(context.Context, *manifest.Table) (chunker.Bitmap, error) { return nil, nil }

// Pause implements Guest.
func (q *QEMU) Pause(ctx context.Context) error {
	running, _, err := q.client.Running(ctx)
	if err == nil && running {
		q.stopped = true // perhaps, even where Stop fails
		err = q.client.Stop(ctx)
	}
	if err != nil {
		return fmt.Errorf("capture: pause QEMU: %w", err)
	}
	return nil
}

// Resume implements Guest.
func (q *QEMU) Resume(ctx context.Context) error {
	if !q.stopped {
		return nil
	}
	if err := q.client.Continue(ctx); err != nil {
		return fmt.Errorf("capture: resume QEMU: %w", err)
	}
	q.stopped = false
	return nil
}

// State implements Guest.
func (q *QEMU) State(ctx context.Context, _ string) (*VM, error) {
	var state bytes.Buffer
	if err := q.client.SaveState(ctx, &state); err != nil {
		return nil, fmt.Errorf("capture: state of QEMU: %w", err)
	}
	version, err := q.client.Version(ctx)
	if err != nil {
		return nil, fmt.Errorf("capture: version of QEMU: %w", err)
	}
	return &VM{State: map[string]chunker.Source{QEMUState: Bytes(state.Bytes())}, VMM: VMMQEMU, VMMVersion: version}, nil
}

// ResumeQEMU lets the guest of a QEMU run whose socket is at path. It is for who finds out that the process which paused it is no more.
func ResumeQEMU(ctx context.Context, path string) error {
	client, err := qmp.Dial(ctx, path)
	if err != nil {
		return fmt.Errorf("capture: QEMU at %s: %w", path, err)
	}
	defer client.Close()
	if _, status, err := client.Running(ctx); err != nil || status != "paused" && status != "postmigrate" {
		return err
	}
	return client.Continue(ctx)
}

var _ Guest = (*QEMU)(nil)
