package arcstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/arcboxlabs/arcstore/bench/cloudhypervisor"
	"github.com/arcboxlabs/arcstore/capture/offload"
)

// Where Cloud Hypervisor gives up, dies, or sends what it should not, it keeps its guest, and there is no snapshot.
func TestOffloadGivenUp(t *testing.T) {
	m := newManager(t, nil)
	errDead := errors.New("dead")
	dies := func(command uint16, n int) func(uint16, *net.UnixConn) error {
		return func(c uint16, conn *net.UnixConn) error {
			if c == command {
				_, _ = conn.Write(cloudhypervisor.Header(c, 0, 100)[:n])
				return errDead
			}
			return nil
		}
	}
	instead := func(command uint16, b ...byte) func(uint16, *net.UnixConn) error {
		return func(c uint16, conn *net.UnixConn) error {
			if c != command {
				return nil
			}
			if _, err := conn.Write(b); err != nil {
				return err
			}
			if err := cloudhypervisor.ReadAnswer(conn); err != nil {
				return err
			}
			return errDead
		}
	}
	abandon := cloudhypervisor.Header(cloudhypervisor.CmdAbandon, 0, 0)
	for name, test := range map[string]struct {
		before func(uint16, *net.UnixConn) error
		says   string // the error here
		sent   error  // the one there
	}{
		"abandoned after start":   {instead(cloudhypervisor.CmdMemoryFd, abandon...), "given up by", errDead},
		"abandoned after config":  {instead(cloudhypervisor.CmdState, abandon...), "given up by", errDead},
		"abandoned after state":   {instead(cloudhypervisor.CmdCompletePaused, abandon...), "given up by", errDead},
		"dies before memory":      {dies(cloudhypervisor.CmdMemoryFd, 0), "the connection ended", errDead},
		"dies within a header":    {dies(cloudhypervisor.CmdConfig, 9), "in the middle of a message", errDead},
		"dies before a payload":   {dies(cloudhypervisor.CmdState, 16), "after 0 of 100 bytes of the State", errDead},
		"dies before the end":     {dies(cloudhypervisor.CmdCompletePaused, 0), "the connection ended", errDead},
		"another version":         {instead(cloudhypervisor.CmdStart, cloudhypervisor.Header(cloudhypervisor.CmdStart, 1, 0)...), "version 1", cloudhypervisor.ErrAnswer},
		"unknown command":         {instead(cloudhypervisor.CmdConfig, cloudhypervisor.Header(77, 0, 0)...), "command 77, which is not known", cloudhypervisor.ErrAnswer},
		"memory over the socket":  {instead(cloudhypervisor.CmdState, cloudhypervisor.Header(cloudhypervisor.CmdMemory, 0, 16)...), "local=on", cloudhypervisor.ErrAnswer},
		"too long a state":        {instead(cloudhypervisor.CmdState, cloudhypervisor.Header(cloudhypervisor.CmdState, 0, 1<<40)...), "State of 1099511627776 bytes", cloudhypervisor.ErrAnswer},
		"out of order":            {instead(cloudhypervisor.CmdConfig, cloudhypervisor.Header(cloudhypervisor.CmdComplete, 0, 0)...), "Complete where none may be", cloudhypervisor.ErrAnswer},
		"config without memory":   {instead(cloudhypervisor.CmdMemoryFd, append(cloudhypervisor.Header(cloudhypervisor.CmdConfig, 0, 2), '{', '}')...), "shares no memory", cloudhypervisor.ErrAnswer},
		"config that says little": {instead(cloudhypervisor.CmdConfig, append(cloudhypervisor.Header(cloudhypervisor.CmdConfig, 0, 2), '{', '}')...), "where it has its memory", cloudhypervisor.ErrAnswer},
		"no file": {func(c uint16, conn *net.UnixConn) error {
			if c != cloudhypervisor.CmdMemoryFd {
				return nil
			}
			_, _ = conn.Write(cloudhypervisor.Header(c, 0, 4))
			return errors.Join(cloudhypervisor.SendFile(conn, 7), cloudhypervisor.ReadAnswer(conn))
		}, "came 0 files", cloudhypervisor.ErrAnswer},
		"two files": {func(c uint16, conn *net.UnixConn) error {
			if c != cloudhypervisor.CmdMemoryFd {
				return nil
			}
			_, _ = conn.Write(cloudhypervisor.Header(c, 0, 4))
			return errors.Join(cloudhypervisor.SendFile(conn, 7, os.Stdin, os.Stdin), cloudhypervisor.ReadAnswer(conn))
		}, "came 2 files", cloudhypervisor.ErrAnswer},
		"a file that is no memory": {func(c uint16, conn *net.UnixConn) error {
			if c != cloudhypervisor.CmdMemoryFd {
				return nil
			}
			null, err := os.Open(os.DevNull)
			if err != nil {
				return err
			}
			defer null.Close()
			for _, slot := range []uint32{2, 3, 7} {
				_, _ = conn.Write(cloudhypervisor.Header(c, 0, 4))
				if err := errors.Join(cloudhypervisor.SendFile(conn, slot, null), cloudhypervisor.ReadAnswer(conn)); err != nil {
					return err
				}
			}
			vm, _ := newCloudVM(t, 1)
			_, _ = conn.Write(append(cloudhypervisor.Header(cloudhypervisor.CmdConfig, 0, uint64(len(vm.Config))), vm.Config...))
			return cloudhypervisor.ReadAnswer(conn)
		}, "in no file of at least", cloudhypervisor.ErrAnswer},
	} {
		t.Run(name, func(t *testing.T) {
			vm, _ := newCloudVM(t, 1)
			socket, result := takeOffer(t, m, CreateRequest{Target: "vm"})
			err := vm.Send(t.Context(), socket, &cloudhypervisor.SendOptions{Before: test.before})
			if !errors.Is(err, cloudhypervisor.ErrKept) || !errors.Is(err, test.sent) {
				t.Errorf("Cloud Hypervisor was told: %v", err)
			}
			o := <-result
			if o.err == nil || !strings.Contains(o.err.Error(), test.says) {
				t.Errorf("the error is %v, and does not say %q", o.err, test.says)
			}
			if all, err := m.List(t.Context(), ""); err != nil || len(all) > 0 {
				t.Errorf("there are snapshots: %v, %v", all, err)
			}
		})
	}
}

// A Cloud Hypervisor that goes away while its memory is read may have let the guest run again.
func TestOffloadLostWhileRead(t *testing.T) {
	for name, then := range map[string]func(*net.UnixConn){
		"dies": func(c *net.UnixConn) { c.Close() },
		"abandons": func(c *net.UnixConn) {
			_, _ = c.Write(cloudhypervisor.Header(cloudhypervisor.CmdAbandon, 0, 0))
			_ = cloudhypervisor.ReadAnswer(c)
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := newManager(t, nil)
			vm, _ := newCloudVM(t, 1)
			here, there := unixPair(t)
			result := make(chan offered, 1)
			progress := make(chan struct{})
			var once sync.Once
			go func() {
				opts := &CreateOptions{Progress: func(Progress) {
					once.Do(func() { // in the middle of the memory
						close(progress)
						time.Sleep(300 * time.Millisecond)
					})
				}}
				s, err := m.CreateFromOffload(t.Context(), "vm", offload.NewConn(here), opts)
				result <- offered{s, err}
			}()
			go func() {
				<-progress
				then(there)
			}()
			if err := vm.SendOn(there, nil); !errors.Is(err, cloudhypervisor.ErrKept) && name == "dies" {
				t.Errorf("%v", err)
			}
			if o := <-result; o.err == nil || o.s != nil {
				t.Errorf("%+v, %v", o.s, o.err)
			}
			if all, err := m.List(t.Context(), ""); err != nil || len(all) > 0 {
				t.Errorf("there are snapshots: %v, %v", all, err)
			}
		})
	}
}

func unixPair(t *testing.T) (a, b *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	for i, c := range []**net.UnixConn{&a, &b} {
		f := os.NewFile(uintptr(fds[i]), "socket")
		conn, err := net.FileConn(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		*c = conn.(*net.UnixConn)
	}
	return a, b
}

// A create that fails is told to Cloud Hypervisor before it lets go of the guest.
func TestOffloadCreateFails(t *testing.T) {
	m := newManager(t, nil)
	vm, _ := newCloudVM(t, 1)
	socket, result := takeOffer(t, m, CreateRequest{Target: "vm", Parent: "0000"})
	if err := vm.Send(t.Context(), socket, nil); !errors.Is(err, cloudhypervisor.ErrAnswer) {
		t.Errorf("Cloud Hypervisor was told: %v", err)
	}
	if o := <-result; !errors.Is(o.err, ErrNotFound) {
		t.Error(o.err)
	}
}

// A page that is damaged is refused, and no other; a guest that does not need it goes on.
func TestOffloadDamaged(t *testing.T) {
	m := newManager(t, nil)
	vm, _ := newCloudVM(t, 1)
	s := offer(t, m, vm, nil)
	want := cloudMemory(t, vm)
	flip(t, m, "packs/*/*", func(size int) int { return size / 3 })
	t.Run("whole", func(t *testing.T) {
		if _, err := m.RestoreOffload(t.Context(), s.ID, filepath.Join(t.TempDir(), "s"), nil); !IsCorrupt(err) {
			t.Errorf("%v", err)
		}
	})
	t.Run("not needed", func(t *testing.T) {
		g, result := receive(t, m, s.ID, OffloadOptions{OnDemand: true}, cloudhypervisor.ReceiveOptions{Postcopy: true})
		if g == nil {
			t.Fatal((<-result).err)
		}
		// Fetching ends at the damage; what came before, and comes now, is right.
		time.Sleep(200 * time.Millisecond)
		cpu, err := g.NewVCPU()
		if err != nil {
			t.Fatal(err)
		}
		defer cpu.Close()
		b, lost := make([]byte, cloudhypervisor.PageSize), 0
		var bad uint64
		eachCloudPage(g, func(r *cloudhypervisor.Region, off uint64, at int) {
			err := g.Ask(r.GPA+off, cloudhypervisor.PageSize)
			if err == nil {
				err = cpu.Read(r.GPA+off, b)
			}
			switch {
			case errors.Is(err, cloudhypervisor.ErrAnswer):
				lost++
				bad = r.GPA + off
			case err != nil:
				t.Fatal(err)
			case !bytes.Equal(b, want[at:][:len(b)]):
				t.Fatalf("the page at %#x differs", r.GPA+off)
			}
		})
		if lost == 0 || lost > 16 {
			t.Errorf("%d pages are lost", lost)
		}
		if err := cpu.Read(bad, b); err == nil {
			t.Error("the guest goes on with what is not there")
		}
		g.Close()
		r := <-result
		if !IsCorrupt(r.err) || r.report == nil || r.report.BytesServed != r.report.Bytes-int64(lost)*cloudhypervisor.PageSize {
			t.Errorf("%+v, %v", r.report, r.err)
		}
	})
}

// What Cloud Hypervisor does not want, or would take for memory that is complete, ends without a guest.
func TestOffloadRefused(t *testing.T) {
	m := newManager(t, nil)
	vm, _ := newCloudVM(t, 1)
	s := offer(t, m, vm, nil)
	for name, test := range map[string]struct {
		opts OffloadOptions
		as   cloudhypervisor.ReceiveOptions
		says string
	}{
		"start":                   {as: cloudhypervisor.ReceiveOptions{Refuse: cloudhypervisor.CmdStart}, says: "answer to a Start: refused by Cloud Hypervisor"},
		"config":                  {as: cloudhypervisor.ReceiveOptions{Refuse: cloudhypervisor.CmdConfig}, says: "answer to a Config: refused by Cloud Hypervisor"},
		"complete":                {as: cloudhypervisor.ReceiveOptions{Refuse: cloudhypervisor.CmdCompletePaused}, says: "answer to a CompletePaused: refused by Cloud Hypervisor"},
		"on demand, not postcopy": {opts: OffloadOptions{OnDemand: true, Resume: true}, says: "memory_mode=postcopy"},
		"postcopy, not on demand": {as: cloudhypervisor.ReceiveOptions{Postcopy: true, FaultTimeout: 100 * time.Millisecond}, says: "memory_mode=postcopy"},
	} {
		t.Run(name, func(t *testing.T) {
			g, result := receive(t, m, s.ID, test.opts, test.as)
			if g != nil {
				t.Error("there is a guest")
				g.Close()
			}
			if r := <-result; r.err == nil || r.report != nil || !strings.Contains(r.err.Error(), test.says) {
				t.Errorf("%+v, %v", r.report, r.err)
			}
		})
	}
	t.Run("nobody", func(t *testing.T) {
		if _, err := m.RestoreOffload(t.Context(), s.ID, filepath.Join(socketDir(t), "none"), nil); !errors.Is(err, os.ErrNotExist) {
			t.Error(err)
		}
	})
}

// Pages may be large ones, partly there already; what the guest does not have is refused, and the connection goes on.
func TestOffloadLargePages(t *testing.T) {
	m := newManager(t, nil)
	vm, _ := newCloudVM(t, 1)
	s := offer(t, m, vm, nil)
	want := cloudMemory(t, vm)
	g, result := receive(t, m, s.ID, OffloadOptions{OnDemand: true}, cloudhypervisor.ReceiveOptions{Postcopy: true, NoPrefault: true, Touch: []uint64{8 << 30}})
	if g == nil {
		t.Fatal((<-result).err)
	}
	cpu, err := g.NewVCPU()
	if err != nil {
		t.Fatal(err)
	}
	defer cpu.Close()
	mine := bytes.Repeat([]byte{0x5A}, cloudhypervisor.PageSize)
	if err := cpu.Write(1<<20, mine); err != nil {
		t.Fatal(err)
	}
	copy(want[1<<20:], mine)
	refused := 0
	for _, ask := range []struct {
		gpa, length uint64
		ok          bool
	}{
		{0, 2 << 20, true}, {0, 4 << 20, false}, {0, 0, false}, {100, 4096, false}, {0, 100, false}, {3 << 20, 4096, false}, {1 << 63, 1 << 63, false},
		{4<<30 - 4096, 8192, false}, {2 << 20, 1 << 20, true}, {4 << 30, 2 << 20, true}, {8 << 30, 1<<20 + 8<<10, true}, {0, 1<<64 - 4096, false},
	} {
		if err := g.Ask(ask.gpa, ask.length); (err == nil) != ask.ok || !ask.ok && !errors.Is(err, cloudhypervisor.ErrAnswer) {
			t.Errorf("%d bytes at %#x: %v", ask.length, ask.gpa, err)
		}
		if !ask.ok {
			refused++
		}
	}
	checkCloud(t, vm, g, want)
	g.Close()
	r := <-result
	if r.report == nil || r.report.BytesServed != r.report.Bytes || !strings.Contains(fmt.Sprint(r.err), fmt.Sprintf(" %d could not be answered", refused)) {
		t.Errorf("%+v, %v", r.report, r.err)
	}
}

// Who is interrupted while a guest lives on its pages ends the connection, and the guest with it.
func TestOffloadInterruptedOnDemand(t *testing.T) {
	m := newManager(t, nil)
	vm, _ := newCloudVM(t, 1)
	s := offer(t, m, vm, nil)
	socket := filepath.Join(socketDir(t), "give")
	l, err := cloudhypervisor.Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan handed, 1)
	go func() {
		report, err := m.RestoreOffload(ctx, s.ID, socket, &OffloadOptions{OnDemand: true})
		result <- handed{report, err}
	}()
	g, err := l.Receive(cloudhypervisor.ReceiveOptions{Postcopy: true, NoPrefault: true, Touch: []uint64{8 << 30}})
	if errors.Is(err, cloudhypervisor.ErrNoUserfault) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	cancel()
	if r := <-result; !errors.Is(r.err, context.Canceled) {
		t.Error(r.err)
	}
	if err := g.Ask(0, 4096); err == nil {
		t.Error("somebody still answers")
	}
}
