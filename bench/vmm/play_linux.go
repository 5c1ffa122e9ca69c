package vmm

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/arcboxlabs/arcstore/restore/uffd"
)

const pageSize = 4096

func init() {
	config := os.Getenv(environment)
	if config == "" {
		return
	}
	os.Unsetenv(environment)
	c := &Config{}
	err := json.Unmarshal([]byte(config), c)
	if err == nil {
		err = play(c)
	}
	if err != nil {
		json.NewEncoder(os.Stdout).Encode(Done{Err: err.Error()})
		os.Exit(1)
	}
	os.Exit(0)
}

// player is the VMM itself.
type player struct {
	c     *Config
	fault *os.File
	want  []byte   // the memory as it must be
	mem   [][]byte // by region
	gone  []atomic.Bool
	dirty []atomic.Bool // freed, or written: not what want says
}

func play(c *Config) error {
	p := &player{c: c}
	f, err := os.Open(c.Memory)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if p.want, err = unix.Mmap(int(f.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_SHARED|unix.MAP_POPULATE); err != nil {
		return err
	}
	p.gone, p.dirty = make([]atomic.Bool, len(p.want)/pageSize), make([]atomic.Bool, len(p.want)/pageSize)
	told, err := p.mapAll()
	if err != nil {
		return err
	}
	if c.Map != "" || c.Late {
	} else if c.Copies {
		debug.SetGCPercent(-1) // which would wait for who waits for a page, and stop who serves it
		go p.serve()
	} else if err := p.handOver(told); err != nil {
		return err
	}
	out := json.NewEncoder(os.Stdout)
	if err := out.Encode(Done{}); err != nil {
		return err
	}
	in := json.NewDecoder(os.Stdin)
	for {
		var d Do
		if err := in.Decode(&d); err != nil {
			return nil // it is over
		}
		start := time.Now()
		if c.Late {
			c.Late = false
			if err := p.handOver(told); err != nil {
				return err
			}
		}
		done := p.do(&d)
		done.Elapsed = int64(time.Since(start))
		if err := out.Encode(done); err != nil {
			return err
		}
	}
}

// mapAll maps and registers the regions, and returns the message that tells of them.
func (p *player) mapAll() ([]byte, error) {
	if p.c.Map != "" {
		return nil, p.mapFile()
	}
	var err error
	if p.fault, err = uffd.Open(uffd.FeatureRemove); err != nil {
		return nil, err
	}
	var told []map[string]any
	for i, r := range p.c.Regions {
		flags := unix.MAP_PRIVATE | unix.MAP_ANONYMOUS | unix.MAP_NORESERVE
		if p.c.PageSize > pageSize {
			flags |= unix.MAP_HUGETLB
		}
		mem, err := unix.Mmap(-1, 0, int(r.Size), unix.PROT_READ|unix.PROT_WRITE, flags)
		if err != nil {
			return nil, fmt.Errorf("map %d bytes of memory: %w", r.Size, err)
		}
		base := address(mem)
		if err := uffd.Register(int(p.fault.Fd()), base, uint64(len(mem))); err != nil {
			return nil, err
		}
		p.mem = append(p.mem, mem)
		size := r.Size
		if i == len(p.c.Regions)-1 {
			size += p.c.Lie
		}
		t := map[string]any{"base_host_virt_addr": base, "size": size, "offset": r.Offset}
		if !p.c.Old {
			t["page_size"] = p.c.PageSize
		}
		t["page_size_kib"] = p.c.PageSize // in bytes, in spite of its name
		told = append(told, t)
	}
	return json.Marshal(told)
}

// mapFile maps a file as the memory.
func (p *player) mapFile() error {
	flags := os.O_RDONLY
	if p.c.Writable {
		flags = os.O_RDWR
	}
	f, err := os.OpenFile(p.c.Map, flags, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	for _, r := range p.c.Regions {
		mem, err := unix.Mmap(int(f.Fd()), r.Offset, int(r.Size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE)
		if err != nil {
			return err
		}
		p.mem = append(p.mem, mem)
	}
	return nil
}

// handOver sends the message and the descriptor, and keeps the descriptor open, as Firecracker does.
func (p *player) handOver(told []byte) error {
	times := 1
	if p.c.Twice {
		times = 2
	}
	for i := range times {
		conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: p.c.Socket, Net: "unix"})
		if err != nil && i > 0 {
			return fmt.Errorf("second: %w", err)
		}
		if err != nil {
			return err
		}
		fds := []int{int(p.fault.Fd())}
		if p.c.Memfd {
			memfd, err := unix.MemfdCreate("guest", 0)
			if err != nil {
				return err
			}
			fds = append(fds, memfd)
		}
		rights := unix.UnixRights(fds...)
		if p.c.Pieces {
			half := len(told) / 2
			_, err = conn.Write(told[:half])
			time.Sleep(10 * time.Millisecond)
			if err == nil {
				_, _, err = conn.WriteMsgUnix(told[half:], rights, nil)
			}
		} else {
			_, _, err = conn.WriteMsgUnix(told, rights, nil)
		}
		conn.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// page returns the memory of a page.
func (p *player) page(page int64) []byte {
	off := page * pageSize
	for i, r := range p.c.Regions {
		if off >= r.Offset && off < r.Offset+r.Size {
			return p.mem[i][off-r.Offset:][:pageSize]
		}
	}
	panic("no such page")
}

func (p *player) do(d *Do) Done {
	var done Done
	if d.Times {
		done.Nanos = make([]int64, len(d.Touch))
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	threads := max(1, d.Threads)
	for t := range threads {
		part, base := d.Touch, 0
		if !d.Race {
			base = len(part) * t / threads
			part = part[base : len(part)*(t+1)/threads]
		}
		wg.Go(func() {
			runtime.LockOSThread()
			debug.SetPanicOnFault(true)
			for i, page := range part {
				before := time.Now()
				ok := p.touch(page)
				if d.Times {
					done.Nanos[base+i] = int64(time.Since(before))
				}
				if ok && p.same(page) {
					if d.Write && !d.Race && !p.gone[page].Load() {
						p.dirty[page].Store(true)
						clear(p.page(page))
					}
					continue
				}
				mu.Lock()
				if ok {
					done.Wrong = append(done.Wrong, page)
				} else {
					done.Poisoned = append(done.Poisoned, page)
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	slices.Sort(done.Poisoned)
	for _, page := range d.Free {
		p.dirty[page].Store(true)
		if err := unix.Madvise(p.page(page), unix.MADV_DONTNEED); err != nil {
			done.Err = err.Error()
		}
		if sound := p.same(page); !sound {
			done.Wrong = append(done.Wrong, page)
		}
	}
	for _, page := range d.Unmap {
		p.gone[page].Store(true)
		b := p.page(page)
		if _, _, errno := unix.Syscall(unix.SYS_MUNMAP, uintptr(address(b)), pageSize, 0); errno != 0 {
			done.Err = errno.Error()
		}
	}
	return done
}

// touch reads a page, and reports whether it could.
func (p *player) touch(page int64) (ok bool) {
	if p.gone[page].Load() {
		return true
	}
	defer func() { ok = recover() == nil }()
	sink.Add(int64(p.page(page)[page&0xfff])) // here it faults
	return true
}

var sink atomic.Int64

// same compares a page with what it must be: zeros, if it was freed or written to.
func (p *player) same(page int64) bool {
	if p.gone[page].Load() {
		return true
	}
	if p.dirty[page].Load() {
		return bytes.Count(p.page(page), []byte{0}) == pageSize
	}
	return bytes.Equal(p.page(page), p.want[page*pageSize:][:pageSize])
}

// serve answers the faults, from a copy of the memory and as fast as it goes.
func (p *player) serve() {
	fd := int(p.fault.Fd())
	unix.SetNonblock(fd, true)
	epoll, err := unix.EpollCreate1(0)
	if err == nil {
		err = unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN})
	}
	var events [1]unix.EpollEvent
	var faults [1]uffd.Event
	for err == nil {
		if _, err = unix.EpollWait(epoll, events[:], -1); errors.Is(err, unix.EINTR) {
			err = nil
			continue
		}
		n, rerr := uffd.Read(fd, faults[:])
		if rerr != nil {
			err = rerr
		} else if n == 1 && faults[0].Kind == uffd.Fault {
			at := faults[0].Address &^ (pageSize - 1)
			for i, r := range p.c.Regions {
				if base := address(p.mem[i]); at >= base && at < base+uint64(r.Size) {
					off := r.Offset + int64(at-base)
					if _, cerr := uffd.Copy(fd, at, p.want[off:off+pageSize]); cerr != nil && !errors.Is(cerr, uffd.ErrPresent) {
						err = cerr
					}
				}
			}
		}
	}
	if !errors.Is(err, io.EOF) {
		fmt.Fprintln(os.Stderr, "vmm:", err)
		os.Exit(1)
	}
}
