package capture

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/arcboxlabs/arcstore/capture/firecracker"
	"github.com/arcboxlabs/arcstore/chunker"
	"github.com/arcboxlabs/arcstore/manifest"
)

// VMMFirecracker is Firecracker's name in the records of snapshots.
const VMMFirecracker = "firecracker"

// Streams of a Firecracker guest, besides its memory.
const (
	// FirecrackerState is what Firecracker writes beside the memory: /snapshot/load takes both as they are restored.
	FirecrackerState = "firecracker/vmstate"
	// FirecrackerOrigin says of which process the snapshot is, and how to find out whether that was asked for anything since.
	FirecrackerOrigin = "firecracker/origin.json"
)

// FirecrackerOptions are the choices of OpenFirecracker.
type FirecrackerOptions struct {
	// Diff has Firecracker write nothing but the pages that changed since the parent, where it is certain that it would: the parent is the last thing that
	// Firecracker was asked for, by anybody. What is asked in the instants in which a snapshot begins and ends cannot be told from the
	// snapshot's own requests, so it is for guests of which nobody else takes snapshots.
	Diff bool
	// Guard is called before the guest is paused; it may be nil.
	Guard func() error
	// Note is told in a line why all pages are written though Diff was asked for; it may be nil.
	Note func(text string)
}

// Firecracker is a guest of Firecracker's, which copies its memory and state into files. Its disks are not part of that.
//
// Firecracker does not say since when it counts pages as dirty, only that it is since the last snapshot that it wrote, for whoever. So a snapshot says at
// which moment of the life of Firecracker's API it ended. Where that has not moved, nobody took a snapshot since, and none failed here: not
// even one of a process that was killed.
type Firecracker struct {
	path   string
	opts   FirecrackerOptions
	client *firecracker.Client
	peer   *firecracker.Process
	place  *firecracker.Place // nil for none
	lock   func()             // lets go of the guest; nil where it is not held

	instance firecracker.Instance
	machine  firecracker.Machine
	full     string // why all pages are written; "" if only those that changed are
	expected int64  // bytes of memory, where only those that changed are written
	stopped  bool   // by us
	asked    bool   // for files, and the answer is out
	memory   *File
	dirty    chunker.Bitmap
}

// firecrackerOrigin is the stream FirecrackerOrigin. Whoever does not know all of it takes it for none.
type firecrackerOrigin struct {
	Format  int                 `json:"format"` // 1
	Process firecracker.Process `json:"process"`
	API     firecracker.API     `json:"api"` // when the guest was resumed, and the connection closed
}

// OpenFirecracker returns the guest of the Firecracker whose API socket is at path, which is not asked for anything yet. It must be closed.
func OpenFirecracker(path string, opts FirecrackerOptions) *Firecracker {
	return &Firecracker{path: path, opts: opts, client: firecracker.New(path)}
}

// errorf says of which guest an error is.
func (f *Firecracker) errorf(what string, err error) error {
	return fmt.Errorf("capture: Firecracker at %s: %s%w", f.path, what, err)
}

// Close lets go of the guest, and resumes it if it is paused.
func (f *Firecracker) Close() error {
	err := f.Resume(context.Background())
	f.client.Close()
	if f.memory != nil {
		f.memory.Close()
	}
	if f.place != nil {
		err = errors.Join(err, f.place.Close())
		f.place = nil
	}
	if f.lock != nil {
		f.lock()
		f.lock = nil
	}
	return err
}

// Memory implements Guest: Firecracker's memory is its own.
func (f *Firecracker) Memory() chunker.Source { return nil }

// Succeed implements Successor.
func (f *Firecracker) Succeed(ctx context.Context, dir string, p Predecessor) error {
	// Before Firecracker is asked for anything, which would be seen.
	origin, full := f.origin(ctx, p)
	if f.place != nil {
		f.place.Close() // the one of the snapshot before
		f.place = nil
	}
	var err error
	if f.peer, err = f.client.Peer(ctx); err == nil && f.lock == nil {
		f.lock, err = f.peer.Lock()
	}
	if err == nil {
		f.instance, err = f.client.Instance(ctx)
	}
	if err == nil {
		f.machine, err = f.client.Machine(ctx)
	}
	if err != nil {
		return f.errorf("", err)
	}
	if f.instance.State == firecracker.NotStarted {
		return f.errorf("", fmt.Errorf("%w: its guest was not started yet", ErrInvalid))
	}
	if f.place, err = f.peer.Place(dir); err != nil {
		return f.errorf("", err)
	}
	f.expected = p.Memory
	switch {
	case full != "":
	case !origin.Process.Same(f.peer):
		full = "it is not the process that the parent is of"
	case f.instance.State == firecracker.Paused:
		full = "somebody else has paused the guest"
	case !f.machine.TrackDirty:
		full = "it does not track dirty pages (track_dirty_pages of /machine-config)"
	case !firecracker.WritesDiffs(f.instance.Version, p.Memory, f.machine.MemoryMiB<<20):
		full = "before 1.15, Firecracker writes wrong differences of memory that is in several parts, as more than 3 GiB are"
	default:
		if err := f.place.Probe(p.Memory); err != nil {
			full = err.Error()
		}
	}
	f.full = full
	return nil
}

// origin returns where the parent comes from, and why that is not enough to write a difference; "" if it is as far as can be told without asking Firecracker.
func (f *Firecracker) origin(ctx context.Context, p Predecessor) (o firecrackerOrigin, full string) {
	if !f.opts.Diff {
		return o, "nobody asked for a difference"
	}
	if p.Not != "" {
		return o, p.Not
	}
	text, err := p.Read(ctx, FirecrackerOrigin)
	if err != nil {
		return o, "the parent's " + FirecrackerOrigin + " cannot be read"
	}
	if text == nil {
		return o, "the parent does not say at which moment it was taken"
	}
	if json.Unmarshal(text, &o) != nil || o.Format != 1 || !o.Process.Known() {
		return o, "the parent's " + FirecrackerOrigin + " is not of this version"
	}
	if o.Process.Alive() != nil {
		return o, "it is not the process that the parent is of"
	}
	now, err := o.Process.API()
	if err != nil {
		return o, "it cannot be told whether it was asked for anything since the parent: " + err.Error()
	}
	if now != o.API {
		return o, "it was asked for something since the parent was taken"
	}
	return o, ""
}

// Pause implements Guest.
func (f *Firecracker) Pause(ctx context.Context) error {
	if f.instance.State == firecracker.Paused {
		return nil
	}
	if f.opts.Guard != nil {
		if err := f.opts.Guard(); err != nil {
			return err
		}
	}
	f.stopped = true // perhaps, even where the request fails
	if err := f.client.SetState(ctx, "Paused"); err != nil {
		return f.errorf("pause: ", err)
	}
	return nil
}

// unfinished is how long a guest may take to be resumed whose Firecracker writes files that nobody waits for any more: it answers
// nobody until that is done.
const unfinished = 10 * time.Minute

// Resume implements Guest.
func (f *Firecracker) Resume(ctx context.Context) error {
	if f.stopped {
		if f.asked {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), unfinished)
			defer cancel()
		}
		if err := f.client.SetState(ctx, "Resumed"); err != nil {
			return f.errorf("resume: ", err)
		}
		f.stopped = false
	}
	return nil
}

// settled is how long Firecracker may take to notice that the connection is closed, on a machine with much else to do. The guest runs meanwhile.
const settled = 2 * time.Second

// Succeeded implements Successor. Where it cannot be told at which moment the snapshot ended, the next one has all pages.
func (f *Firecracker) Succeeded(vm *VM) {
	f.client.Close()
	if !f.peer.Known() {
		return
	}
	o := firecrackerOrigin{Format: 1, Process: *f.peer}
	for end, same := time.Now().Add(settled), 0; same < 3; {
		now, err := f.peer.API()
		if err != nil && !errors.Is(err, firecracker.ErrBusy) || time.Now().After(end) {
			return
		}
		if same++; err != nil || now != o.API {
			same = 0
		}
		o.API = now
		time.Sleep(time.Millisecond)
	}
	if text, err := json.Marshal(o); err == nil {
		vm.State[FirecrackerOrigin] = Bytes(append(text, '\n'))
	}
}

// State implements Guest.
func (f *Firecracker) State(ctx context.Context, _ string) (*VM, error) {
	vm, err := &VM{}, error(nil)
	if f.full == "" {
		vm, err = f.write(ctx, firecracker.Diff)
		if err == nil {
			f.dirty, err = f.pages()
		}
		if err != nil && ctx.Err() == nil {
			f.full = err.Error()                          // a failed one may have cost the knowledge of what is dirty
			f.place.Remove(memoryName + firecracker.Diff) // it takes room, if it is there
		}
	}
	if f.full != "" {
		if f.opts.Diff && f.opts.Note != nil {
			f.opts.Note(fmt.Sprintf("Firecracker at %s writes all pages: %s", f.path, f.full))
		}
		f.dirty = nil
		vm, err = f.write(ctx, firecracker.Full)
	}
	if err != nil {
		return nil, f.errorf("", err)
	}
	return vm, nil
}

// Names of the files, which the kind follows: none is written twice.
const (
	memoryName = "memory-"
	stateName  = "vmstate-"
)

// write has Firecracker write its files anew, and opens them.
func (f *Firecracker) write(ctx context.Context, kind string) (*VM, error) {
	if f.memory != nil {
		f.memory.Close()
		f.memory = nil
	}
	memory, state := f.place.File(memoryName+kind), f.place.File(stateName+kind)
	f.asked = true
	err := f.client.Create(ctx, firecracker.Snapshot{Type: kind, State: state, Memory: memory})
	f.asked = err != nil && ctx.Err() != nil
	if err != nil {
		return nil, err
	}
	header, err := f.place.Read(stateName+kind, firecracker.MaxState)
	if err == nil {
		_, err = firecracker.CheckState(header, f.instance.Version)
	}
	if err != nil {
		return nil, err
	}
	file, err := f.place.Open(memoryName + kind)
	if err == nil {
		f.memory, err = NewFile(file)
	}
	if err != nil {
		return nil, err
	}
	if f.memory.Size() == 0 || f.memory.Size()%chunker.PageSize != 0 || f.memory.Size() < f.machine.MemoryMiB<<20 {
		return nil, fmt.Errorf("it wrote %d bytes of memory, and its guest has %d MiB", f.memory.Size(), f.machine.MemoryMiB)
	}
	return &VM{Memory: f.memory, State: map[string]chunker.Source{FirecrackerState: Bytes(header)}, VMM: VMMFirecracker, VMMVersion: f.instance.Version}, nil
}

// pages are those that a difference has: what is not a hole, even if it is zero.
func (f *Firecracker) pages() (chunker.Bitmap, error) {
	size := f.memory.Size()
	if size != f.expected {
		return nil, fmt.Errorf("its memory has %d bytes now, and had %d", size, f.expected)
	}
	dirty := make(chunker.Bitmap, (size/chunker.PageSize+63)/64*8)
	err := firecracker.EachData(f.memory.f, size, func(start, end int64) {
		for page := start / chunker.PageSize; page < end/chunker.PageSize; page++ {
			dirty[page/8] |= 1 << (page % 8)
		}
	})
	return dirty, err
}

// Changed implements Guest.
func (f *Firecracker) Changed(context.Context, *manifest.Table) (chunker.Bitmap, error) {
	return f.dirty, nil
}

// ResumeFirecracker lets the guest of a Firecracker run whose API socket is at path. It is for who finds out that the process which paused it is no more.
func ResumeFirecracker(ctx context.Context, path string) error {
	client := firecracker.New(path)
	defer client.Close()
	i, err := client.Instance(ctx)
	if err == nil && i.State == firecracker.Paused {
		err = client.SetState(ctx, "Resumed")
	}
	if err != nil {
		return fmt.Errorf("capture: Firecracker at %s: %w", path, err)
	}
	return nil
}

var _ Successor = (*Firecracker)(nil)
