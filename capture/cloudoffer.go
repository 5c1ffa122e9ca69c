package capture

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/arcboxlabs/arcstore/capture/offload"
	"github.com/arcboxlabs/arcstore/chunker"
	"github.com/arcboxlabs/arcstore/manifest"
)

// CloudHypervisorMigration is, after CloudHypervisorPrefix, the name of the stream that is the configuration which Cloud Hypervisor offers a guest with. It
// has more than config.json in a snapshot's directory, which is a part of it.
const CloudHypervisorMigration = "migration_config.json"

// CloudOffer is a guest that Cloud Hypervisor offers: paused, with its memory in files that it shares, until it is told how that ended.
type CloudOffer struct {
	conn     *offload.Conn
	files    map[uint32]*os.File // by slot
	config   *offload.Config
	vm       *VM
	answered bool // nothing is to be answered any more
}

// ErrNoOffer: the other end closed the connection before it said anything.
var ErrNoOffer = errors.New("nothing was offered")

// TakeCloudOffer receives what Cloud Hypervisor offers on conn, which the offer closes, up to where the guest is paused and all of it can be read.
// Where it fails, Cloud Hypervisor is told, whose guest goes on then as it was before, and conn is closed. The offer must be closed.
//
// The memory is not read before Capture: until Cloud Hypervisor has sent the state, its guest may be running.
func TakeCloudOffer(ctx context.Context, conn *offload.Conn) (_ *CloudOffer, err error) {
	o := &CloudOffer{conn: conn, files: make(map[uint32]*os.File), vm: &VM{State: make(map[string]chunker.Source), VMM: VMMCloudHypervisor}}
	if err := conn.While(ctx, o.receive); err != nil {
		o.Close()
		return nil, fmt.Errorf("capture: what Cloud Hypervisor offers: %w", err)
	}
	return o, nil
}

// receive takes one request after the other, in the order that the protocol demands.
func (o *CloudOffer) receive() error {
	if r, err := o.conn.ReadRequest(); errors.Is(err, io.EOF) {
		return ErrNoOffer
	} else if err != nil {
		return err
	} else if r.Command != offload.Start {
		return outOfOrder(r.Command)
	}
	var state []byte
	for {
		if err := o.conn.Answer(true); err != nil {
			return err
		}
		r, err := o.conn.ReadRequest()
		if errors.Is(err, io.EOF) {
			err = errors.New("the connection ended before the guest was complete")
		}
		if err != nil {
			return err
		}
		switch {
		case r.Command == offload.Abandon:
			o.abandoned()
			return offload.ErrAbandoned
		case r.Command == offload.SendMemoryFile && o.config == nil:
			err = o.takeFile()
		case r.Command == offload.SendConfig && o.config == nil:
			err = o.takeConfig(r)
		case r.Command == offload.SendState && o.config != nil && state == nil:
			state, err = o.conn.ReadDocument(r)
			o.vm.State[CloudHypervisorPrefix+"state.json"] = Bytes(state)
		case (r.Command == offload.Complete || r.Command == offload.CompletePaused) && state != nil:
			o.describe(state)
			return nil // answered when the snapshot is durable
		case r.Command == offload.SendMemory:
			err = fmt.Errorf("%w: it sends its memory, where it is to share it: send-migration needs local=on", ErrInvalid)
		default:
			err = outOfOrder(r.Command)
		}
		if err != nil {
			return err
		}
	}
}

func outOfOrder(c offload.Command) error {
	return fmt.Errorf("%w: it sent a %s where none may be", offload.ErrProtocol, c)
}

// takeFile receives the file of a slot.
func (o *CloudOffer) takeFile() error {
	slot, f, err := o.conn.ReadFile()
	if err != nil {
		return err
	}
	if o.files[slot] != nil {
		f.Close()
		return fmt.Errorf("%w: it sent the memory of slot %d twice", offload.ErrProtocol, slot)
	}
	o.files[slot] = f
	return nil
}

// takeConfig receives the configuration, and finds the guest's memory in the files.
func (o *CloudOffer) takeConfig(r offload.Request) error {
	b, err := o.conn.ReadDocument(r)
	if err != nil {
		return err
	}
	if len(o.files) == 0 {
		return fmt.Errorf("%w: it shares no memory: send-migration needs local=on, and the guest a memory with shared=on", ErrInvalid)
	}
	if o.config, err = offload.ParseConfig(b); err != nil {
		return err
	}
	memory := &cloudMemory{config: o.config}
	machine := &manifest.Machine{Architecture: host().Architecture}
	for _, m := range o.config.Mappings {
		f := o.files[m.Slot]
		if f == nil {
			return fmt.Errorf("%w: it did not send the memory of slot %d", offload.ErrProtocol, m.Slot)
		}
		info, err := f.Stat()
		if err != nil {
			return err
		}
		if !info.Mode().IsRegular() || info.Size() < m.FileOffset+m.Size {
			return fmt.Errorf("%w: the memory of slot %d lies in no file of at least %d bytes", ErrInvalid, m.Slot, m.FileOffset+m.Size)
		}
		memory.files = append(memory.files, f)
		machine.Regions = append(machine.Regions, manifest.Region{GuestAddress: m.GPA, Size: m.Size, Offset: m.Offset})
	}
	o.vm.Memory, o.vm.Machine = memory, machine
	o.vm.State[CloudHypervisorPrefix+CloudHypervisorMigration] = Bytes(b)
	return nil
}

// describe adds what makes the snapshot one of a directory, too, where its memory lies as the state says of the file that it has there.
func (o *CloudOffer) describe(state []byte) {
	m := describeCloud(state, o.config.Size)
	if m != nil && slices.Equal(m.Regions, o.vm.Machine.Regions) {
		o.vm.State[CloudHypervisorPrefix+"config.json"] = Bytes(o.config.VM)
	}
}

// VM returns what is offered, to be read while the offer is open.
func (o *CloudOffer) VM() *VM { return o.vm }

// Capture captures the guest as CaptureVM does, has commit make that durable, and tells Cloud Hypervisor of it. Where the
// connection ends, or Cloud Hypervisor gives the guest up, before all of its memory was read, nothing is committed: the guest may be running again.
// An error after commit returned nil says that Cloud Hypervisor could not be told.
func (o *CloudOffer) Capture(ctx context.Context, sink Sink, b *manifest.Builder, opts Options, commit func(Stats) error) error {
	watched, unchanged := o.watch(ctx)
	stats, err := CaptureVM(watched, o.vm, sink, b, opts)
	if err := errors.Join(unchanged(), ctx.Err()); err != nil {
		return fmt.Errorf("capture: what Cloud Hypervisor offers: %w", err)
	}
	if err != nil {
		return err
	}
	if err := commit(stats); err != nil {
		return err
	}
	o.answered = true
	if err := o.conn.Answer(true); err != nil {
		return fmt.Errorf("capture: Cloud Hypervisor could not be told: %w", err)
	}
	return nil
}

// watch returns a context that ends when Cloud Hypervisor does not wait for the answer any more; unchanged ends the watch, and says why if it does not.
func (o *CloudOffer) watch(ctx context.Context) (_ context.Context, unchanged func() error) {
	ctx, cancel := context.WithCancel(ctx)
	broken := make(chan error, 1)
	go func() {
		r, err := o.conn.ReadRequest()
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			broken <- nil
			return
		case err != nil:
			err = fmt.Errorf("the connection ended while its memory was read: %w", err)
		case r.Command == offload.Abandon:
			o.abandoned()
			err = offload.ErrAbandoned
		default:
			err = outOfOrder(r.Command)
		}
		broken <- err
		cancel()
	}()
	return ctx, func() error {
		o.conn.Interrupt()
		err := <-broken
		o.conn.Resume()
		cancel()
		return err
	}
}

// abandoned answers an Abandon; who sent it may be gone.
func (o *CloudOffer) abandoned() {
	_ = o.conn.Answer(true)
	o.answered = true
}

// Close lets go of the guest. One that was not captured is refused: Cloud Hypervisor goes on with it as before.
func (o *CloudOffer) Close() error {
	if !o.answered {
		_ = o.conn.Answer(false) // nobody may be there
		o.answered = true
	}
	errs := []error{o.conn.Close()}
	for _, f := range o.files {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

// cloudMemory is the guest's memory: the pieces of it, in the order of their addresses, one after another. It reads the files and does not map them: of one
// that is cut short meanwhile, that is an error.
type cloudMemory struct {
	config *offload.Config
	files  []*os.File // of the mappings
}

// Size implements chunker.Source.
func (c *cloudMemory) Size() int64 { return c.config.Size }

// ReadAt implements io.ReaderAt.
func (c *cloudMemory) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off > c.config.Size {
		return 0, fmt.Errorf("capture: offset %d outside of the memory of %d bytes", off, c.config.Size)
	}
	n := min(int64(len(p)), c.config.Size-off)
	done := 0
	err := c.config.Pieces(off, n, func(i int, at, from, to int64) error {
		m := &c.config.Mappings[i]
		got, err := c.files[i].ReadAt(p[from:to], m.FileOffset+at)
		done += got
		if errors.Is(err, io.EOF) && int64(got) == to-from {
			err = nil
		}
		if err != nil {
			return fmt.Errorf("capture: the memory of slot %d: %w", m.Slot, cutShort(err))
		}
		return nil
	})
	if err == nil && n < int64(len(p)) {
		err = io.EOF
	}
	return done, err
}

// cutShort is the error for a file that lost its end: to readers the end of the file is not that of the memory.
func cutShort(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// NextData implements chunker.HoleFinder with SEEK_DATA and SEEK_HOLE. Where they cannot tell, everything is data.
func (c *cloudMemory) NextData(off int64) (start, end int64, err error) {
	for i := range c.config.Mappings {
		m := &c.config.Mappings[i]
		if off >= m.Offset+m.Size {
			continue
		}
		at := max(off, m.Offset) - m.Offset
		from, to, err := nextFileData(c.files[i], m.FileOffset+at, m.FileOffset+m.Size)
		if err != nil {
			return 0, 0, err
		}
		if from < to {
			return from - m.FileOffset + m.Offset, to - m.FileOffset + m.Offset, nil
		}
	}
	return c.config.Size, c.config.Size, nil
}

// nextFileData returns the first range of f from off to end that may have data; an empty one where there is none.
func nextFileData(f *os.File, off, end int64) (from, to int64, err error) {
	from, err = unix.Seek(int(f.Fd()), off, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) {
		info, err := f.Stat()
		if err != nil {
			return 0, 0, fmt.Errorf("capture: %w", err)
		}
		if info.Size() < end {
			return off, end, nil // it was cut short; the read will tell
		}
		return end, end, nil
	}
	if err != nil {
		return off, end, nil
	}
	if to, err = unix.Seek(int(f.Fd()), from, unix.SEEK_HOLE); err != nil {
		to = math.MaxInt64
	}
	return min(from, end), min(to, end), nil
}
