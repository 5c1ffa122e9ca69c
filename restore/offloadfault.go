package restore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/arcboxlabs/arcstore/capture/offload"
)

const (
	offloadPage  = 4096     // bytes: what is remembered as filled
	offloadPiece = 64 << 10 // bytes that are read at once
	// longestOffloadFault bounds a request: no page is larger.
	longestOffloadFault = 1 << 30
)

// offloadFaults answers page faults: one goroutine runs it.
type offloadFaults struct {
	guest    *Offload
	pages    GuestMemory
	progress func(int64)

	first  chan struct{} // closed when something was asked for
	ended  chan struct{} // closed at the end, and after it all below may be read
	count  int64
	bytes  int64
	failed int64
	why    error // of the first that failed; of the connection, if none did

	filled [][]uint64 // a bit for each page of each mapping
	buf    [offloadPiece]byte
}

func newOffloadFaults(guest *Offload, opts OffloadOptions) *offloadFaults {
	s := &offloadFaults{guest: guest, pages: opts.Pages, progress: opts.Progress, first: make(chan struct{}), ended: make(chan struct{})}
	for _, m := range guest.config.Mappings {
		s.filled = append(s.filled, make([]uint64, (m.Size/offloadPage+63)/64))
	}
	return s
}

// waitFirst waits until something was asked for. A Cloud Hypervisor that asks for nothing does not know that the memory is empty.
func (s *offloadFaults) waitFirst(ctx context.Context) error {
	patience := time.NewTimer(firstOffloadFault)
	defer patience.Stop()
	select {
	case <-s.first:
		return nil
	case <-s.ended:
	case <-patience.C:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	select {
	case <-s.first: // and it has everything already
		return nil
	default:
		return errNotAsked
	}
}

// failure is what is wrong in the end; nil where every page that was asked for was had.
func (s *offloadFaults) failure() error {
	if s.why != nil && s.failed > 0 {
		return fmt.Errorf("restore: of %d page faults, %d could not be answered, the first because: %w", s.count, s.failed, s.why)
	}
	if s.why != nil {
		return fmt.Errorf("restore: page faults: %w", s.why)
	}
	return nil
}

// run answers until the other end closes the connection, which it does once it has everything.
func (s *offloadFaults) run(conn *offload.Conn) {
	defer close(s.ended)
	defer conn.Close()
	for {
		r, err := conn.ReadRequest()
		if err != nil {
			if s.why == nil && errors.Is(err, offload.ErrProtocol) {
				s.why = err
			}
			return // Cloud Hypervisor has ended the connection, or itself
		}
		switch r.Command {
		case offload.PageFault:
		case offload.Abandon:
			_ = conn.Answer(true)
			return
		default:
			s.why = errors.Join(s.why, fmt.Errorf("%w: a %s came where only page faults may be", offload.ErrProtocol, r.Command))
			_ = conn.Answer(false)
			return
		}
		wanted, err := conn.ReadRange()
		if err != nil {
			return
		}
		if s.count++; s.count == 1 {
			close(s.first)
		}
		if err = s.fill(wanted); err != nil {
			s.failed++
			if s.failed == 1 {
				s.why = err
			}
		}
		if conn.Answer(err == nil) != nil {
			return
		}
		if s.progress != nil {
			s.progress(s.bytes)
		}
	}
}

// fill sees to it that a range of the guest's memory is there.
func (s *offloadFaults) fill(r offload.Range) error {
	i, ok := s.guest.config.Find(r)
	if !ok || (r.GPA|r.Length)%offloadPage != 0 || r.Length > longestOffloadFault {
		return fmt.Errorf("%w: it asks for %d bytes at %#x, where the guest has no such pages", offload.ErrProtocol, r.Length, r.GPA)
	}
	m := &s.guest.config.Mappings[i]
	from := int64(r.GPA-m.GPA) / offloadPage
	to := from + int64(r.Length)/offloadPage
	for from < to {
		filled, end := s.alike(i, from, min(to, from+offloadPiece/offloadPage))
		if err := s.put(i, from, end-from, filled); err != nil {
			return err
		}
		from = end
	}
	return nil
}

// alike returns how far pages from from on, up to to, are all filled, or all not.
func (s *offloadFaults) alike(i int, from, to int64) (filled bool, end int64) {
	filled = s.isFilled(i, from)
	for end = from + 1; end < to && s.isFilled(i, end) == filled; end++ {
	}
	return filled, end
}

func (s *offloadFaults) isFilled(i int, page int64) bool {
	return s.filled[i][page/64]>>(page%64)&1 != 0
}

// put fills count pages of a mapping.
func (s *offloadFaults) put(i int, first, count int64, filled bool) error {
	m := &s.guest.config.Mappings[i]
	at, n := first*offloadPage, count*offloadPage
	f := s.guest.files[i]
	if filled {
		// The guest has had them, and may have written to them since. What it gave back reads as zeros; it only has to be there.
		return allocatePages(f, m.FileOffset+at, n)
	}
	b := s.buf[:n]
	if _, err := s.pages.ReadAt(b, m.Offset+at); err != nil {
		return fmt.Errorf("%d bytes of the guest's memory at %#x: %w", n, m.GPA+uint64(at), err)
	}
	// Zeros, too: Cloud Hypervisor maps the page that is in the file, and a hole is none.
	if _, err := f.WriteAt(b, m.FileOffset+at); err != nil {
		return err
	}
	for p := first; p < first+count; p++ {
		s.filled[i][p/64] |= 1 << (p % 64)
	}
	s.bytes += n
	return nil
}
