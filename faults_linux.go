package arcstore

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"github.com/arcboxlabs/arcstore/manifest"
	"github.com/arcboxlabs/arcstore/restore"
)

// GuestMemory is the memory of a guest that runs, and is loaded as the guest touches it.
type GuestMemory = restore.Memory

// Attach loads the memory of a guest of this process's, or of one that handed its userfaultfd over, as the guest touches it. It takes the
// descriptor over. The regions are registered with it, for missing pages, and are together all of the snapshot's memory.
// process is a pidfd of the VMM, nil for none; it stays the caller's. Nothing is loaded anymore once ctx is done: a guest that
// touches another page then waits for ever.
func (l *LazySnapshot) Attach(ctx context.Context, fault *os.File, regions []MappedRegion, process *os.File, opts *FaultOptions) (*GuestMemory, error) {
	if opts == nil {
		opts = &FaultOptions{}
	}
	pages, err := l.Stream(manifest.MemoryStream)
	if err != nil {
		fault.Close()
		return nil, err
	}
	m, err := restore.ServeMemory(ctx, fault, regions, pages, restore.MemoryOptions{
		Threads: opts.Threads, Process: process, FillRate: opts.FillRate, FillAfter: max(opts.FillAfter, opts.Record),
		IsDamage: IsCorrupt, Damaged: opts.Damaged,
		WorkingSet: func(ctx context.Context) *WorkingSet {
			if opts.NoWorkingSet {
				return nil
			}
			return l.WorkingSet(ctx)
		},
	})
	if err != nil {
		return nil, err
	}
	if opts.Record > 0 {
		l.work.Go(func() {
			select {
			case <-m.Done():
			case <-time.After(opts.Record):
			}
			if err := l.record(context.WithoutCancel(ctx), pages.Size(), m.Touched()); err != nil && opts.Warn != nil {
				opts.Warn(err)
			}
		})
	}
	return m, nil
}

// ServeFaults loads the memory of guests whose VMMs hand it over on a Unix socket, as Firecracker does where mem_backend is
// of type Uffd, and backend_path is the socket. It serves opts.Clones of them, closes the listener when they are there, and returns
// when none needs it anymore: a guest is gone, or all of its memory is loaded. A VMM that handed memory over that cannot be loaded is killed: its
// guest would wait for ever, or go on with pages missing. The error is the first one's that was killed.
//
// Once ctx is done, what is missing is loaded as fast as it can be, so that the guests go on without the service; and those that still need it
// when kill is done, nil for never, are killed.
func (l *LazySnapshot) ServeFaults(ctx context.Context, listener *net.UnixListener, opts *FaultOptions, kill <-chan struct{}) error {
	if opts == nil {
		opts = &FaultOptions{}
	}
	if _, err := l.Stream(manifest.MemoryStream); err != nil {
		listener.Close()
		return err
	}
	s := &faultService{l: l, opts: opts, kill: kill, hurry: ctx.Done()}
	stop := context.AfterFunc(ctx, func() { listener.Close() })
	defer stop()
	for n := 0; opts.Clones < 0 || n < max(1, opts.Clones); {
		conn, err := listener.AcceptUnix()
		if err != nil {
			if ctx.Err() == nil {
				s.failed(fmt.Errorf("arcstore: %w", err))
			}
			break
		}
		h, err := restore.ReceiveHandOver(conn, opts.allowed)
		conn.Close()
		if errors.Is(err, restore.ErrNoHandOver) || errors.Is(err, restore.ErrPeer) {
			s.warn(err)
			continue
		}
		s.guests.Go(func() { s.serve(ctx, h, err) })
		n++
	}
	listener.Close() // who comes now is told so, and does not wait
	s.guests.Wait()
	return s.err
}

// faultService is what serves the guests of one listener.
type faultService struct {
	l           *LazySnapshot
	opts        *FaultOptions
	kill, hurry <-chan struct{}
	guests      sync.WaitGroup

	mu  sync.Mutex
	err error
}

func (s *faultService) warn(err error) {
	if s.opts.Warn != nil {
		s.opts.Warn(err)
	}
}

func (s *faultService) failed(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = err
	}
}

// serve serves one guest to its end.
func (s *faultService) serve(ctx context.Context, h *restore.HandOver, err error) {
	defer h.Close()
	start := time.Now()
	ended := GuestEnded{PID: h.PID}
	if err == nil {
		ended.Stats, err = s.load(ctx, h)
	}
	if err != nil {
		err = fmt.Errorf("arcstore: the memory of process %d cannot be loaded, which was killed therefore: %w", h.PID, err)
		if kerr := h.Kill(); kerr != nil && !errors.Is(kerr, os.ErrProcessDone) {
			err = errors.Join(err, kerr)
		}
		s.failed(err)
	}
	ended.Err, ended.Duration = err, time.Since(start)
	if s.opts.Ended != nil {
		s.opts.Ended(ended)
	}
}

func (s *faultService) load(ctx context.Context, h *restore.HandOver) (stats GuestMemoryStats, err error) {
	if s.opts.Guard != nil {
		release, err := s.opts.Guard(h.PID, h.Process)
		if err != nil {
			return stats, err
		}
		defer release()
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	fault := h.Fault
	h.Fault = nil
	m, err := s.l.Attach(ctx, fault, h.Regions, h.Process, s.opts)
	if err != nil {
		return stats, err
	}
	if s.opts.Attached != nil {
		s.opts.Attached(h.PID)
	}
	complete := func() { go m.Complete(ctx) }
	if s.opts.Complete {
		complete()
	}
	hurry, request := s.hurry, s.opts.CompleteNow
	for {
		select {
		case <-hurry:
			hurry = nil
			complete()
		case <-request:
			request = nil
			complete()
		case <-s.kill:
			cancel()
			<-m.Done()
			return m.Stats(), errors.New("the service was told to stop before all was there")
		case <-m.Done():
			return m.Stats(), m.Wait()
		}
	}
}

// allowed reports whether processes of a user may hand memory over.
func (o *FaultOptions) allowed(uid int) bool {
	if o.User != nil {
		return uid == *o.User
	}
	return uid == os.Getuid()
}
