package restore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/arcboxlabs/arcstore/capture/offload"
)

// GuestMemory is a guest's memory, where every byte that is read was verified. It is asked for one page after the other, and so keeps what it had to
// decompress for them, as Pages does.
type GuestMemory interface {
	io.ReaderAt
	// Size returns its length in bytes.
	Size() int64
}

// Offload is a guest on its way to a Cloud Hypervisor, with files that become its memory. Its memory is what is written to it, in the order of the
// guest's addresses, before Send; or nothing, where it is sent on demand. WriteAt is safe for concurrent use.
type Offload struct {
	document []byte
	config   *offload.Config
	files    []*os.File // of the mappings
}

// NewOffload makes a guest of a configuration, as offload.ParseConfig reads it, whose memory has size bytes. It must be closed.
func NewOffload(config []byte, size int64) (_ *Offload, err error) {
	o := &Offload{document: config}
	if o.config, err = offload.ParseConfig(config); err != nil {
		return nil, fmt.Errorf("restore: %w", err)
	}
	if o.config.Size != size {
		return nil, fmt.Errorf("restore: the guest's configuration speaks of %d bytes of memory, and there are %d", o.config.Size, size)
	}
	defer func() {
		if err != nil {
			o.Close()
		}
	}()
	for _, m := range o.config.Mappings {
		f, err := newMemoryFile(fmt.Sprintf("arcstore-slot-%d", m.Slot))
		if err != nil {
			return nil, fmt.Errorf("restore: make memory for the guest: %w", err)
		}
		o.files = append(o.files, f)
		if err := f.Truncate(m.FileOffset + m.Size); err != nil {
			return nil, fmt.Errorf("restore: make memory for the guest: %w", err)
		}
	}
	return o, nil
}

// Close lets go of the memory. A Cloud Hypervisor that has it keeps it.
func (o *Offload) Close() error {
	var errs []error
	for _, f := range o.files {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

// WriteAt implements io.WriterAt: it writes to the guest's memory.
func (o *Offload) WriteAt(p []byte, off int64) (int, error) {
	done := 0
	err := o.config.Pieces(off, int64(len(p)), func(i int, at, from, to int64) error {
		n, err := o.files[i].WriteAt(p[from:to], o.config.Mappings[i].FileOffset+at)
		done += n
		return err
	})
	return done, err
}

// OffloadOptions are the choices of a Send.
type OffloadOptions struct {
	State  []byte        // of vCPUs and devices
	Pages  GuestMemory   // answers page faults; nil where the memory was written
	Resume bool          // the guest runs; without, it stays paused
	Wait   time.Duration // how long to wait for a Cloud Hypervisor to listen
	// Handed is called once Cloud Hypervisor has the guest, before its page faults are all answered; nil is nobody.
	Handed func()
	// Progress is told how many bytes page faults have asked for; nil is nobody.
	Progress func(done int64)
}

// Offloaded says what a Send did.
type Offloaded struct {
	Handed bool  // Cloud Hypervisor has the guest
	Faults int64 // requests for pages
	Bytes  int64 // of the memory that they were answered with
}

// firstOffloadFault is how long a Cloud Hypervisor may take to ask for its first page. It fetches pages all the time until it has all.
const firstOffloadFault = 30 * time.Second

// errNotAsked: Cloud Hypervisor would let the guest run with memory that is empty.
var errNotAsked = errors.New("nobody asks for the guest's pages, so Cloud Hypervisor was told to forget the guest: receive-migration needs memory_mode=postcopy for that")

// Send hands the guest to the Cloud Hypervisor that listens at socket, and answers its page faults until it has all pages, or ends the connection. Where it
// fails before Cloud Hypervisor has the guest, there is none. A page that cannot be had is refused, and the rest goes on: the error names the first
// one at the end.
func (o *Offload) Send(ctx context.Context, socket string, opts OffloadOptions) (done Offloaded, err error) {
	conn, err := offload.Dial(ctx, socket, opts.Wait)
	if err != nil {
		return done, fmt.Errorf("restore: %w", err)
	}
	defer conn.Close()
	err = conn.While(ctx, func() error { return o.introduce(conn) })
	if err != nil {
		return done, fmt.Errorf("restore: hand the guest over: %w", err)
	}
	var faults *offloadFaults
	if opts.Pages != nil {
		// Cloud Hypervisor expects it before it gets the state, whose restore may touch memory.
		second, err := offload.Dial(ctx, socket, 0)
		if err == nil {
			err = second.SendRole(offload.RoleFaults)
			defer second.Close()
		}
		if err != nil {
			return done, fmt.Errorf("restore: connection for page faults: %w", err)
		}
		faults = newOffloadFaults(o, opts)
		go faults.run(second)
		defer func() {
			second.Close()
			<-faults.ended
			done.Faults, done.Bytes = faults.count, faults.bytes
		}()
	}
	err = conn.While(ctx, func() error { return o.finish(ctx, conn, faults, opts) })
	if err != nil {
		return done, fmt.Errorf("restore: hand the guest over: %w", err)
	}
	done.Handed = true
	if opts.Handed != nil {
		opts.Handed()
	}
	if faults == nil {
		return done, nil
	}
	select {
	case <-faults.ended:
		return done, faults.failure()
	case <-ctx.Done():
		return done, context.Cause(ctx)
	}
}

// introduce sends the memory and the configuration.
func (o *Offload) introduce(conn *offload.Conn) error {
	if err := conn.Ask(offload.Start, nil); err != nil {
		return err
	}
	for i, m := range o.config.Mappings {
		if err := conn.AskFile(m.Slot, o.files[i]); err != nil {
			return err
		}
	}
	return conn.Ask(offload.SendConfig, o.document)
}

// finish sends the state, and makes the guest Cloud Hypervisor's.
func (o *Offload) finish(ctx context.Context, conn *offload.Conn, faults *offloadFaults, opts OffloadOptions) error {
	if err := conn.Ask(offload.SendState, opts.State); err != nil {
		if faults == nil && errors.Is(err, offload.ErrRefused) {
			return fmt.Errorf("%w (with memory_mode=postcopy it takes guests on demand alone)", err)
		}
		return err
	}
	if faults != nil {
		if err := faults.waitFirst(ctx); err != nil {
			return errors.Join(err, conn.Ask(offload.Abandon, nil))
		}
	}
	if opts.Resume {
		return conn.Ask(offload.Complete, nil)
	}
	return conn.Ask(offload.CompletePaused, nil)
}
