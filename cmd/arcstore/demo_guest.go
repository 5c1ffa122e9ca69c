package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"strconv"
	"unsafe"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// demoGuestName is the hidden command that is the demo's busy process.
const demoGuestName = "demo-guest"

func newDemoGuestCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:     demoGuestName + " SIZE [FILE]",
		Hidden:  true,
		Short:   "Keep memory busy (a part of demo)",
		Long:    `Demo-guest is the process that demo takes snapshots of: it answers each line on stdin with a line when it has worked.`,
		Example: "  yes | head -3 | arcstore demo-guest 67108864",
		Args:    takes(1, 2, "a number of bytes and perhaps a file"),
		RunE: func(_ *cobra.Command, args []string) error {
			size, err := strconv.ParseInt(args[0], 10, 64)
			if err != nil || size < demoMinSize || size > demoMaxSize {
				return usagef("%q is not a size in bytes that demo uses", args[0])
			}
			return runDemoGuest(a, size, append(args, "")[1])
		},
	}
	return exits(cmd, exitFailed, exitUsage)
}

func runDemoGuest(a *app, size int64, file string) error {
	// Ctrl-C is for the demo, which ends this process; if it cannot, the end of stdin does.
	signal.Ignore(os.Interrupt)
	mem, err := mapGuestMemory(size, file)
	if err != nil {
		return err
	}
	g := &guestMemory{mem: mem, base: uint64(uintptr(unsafe.Pointer(&mem[0]))), rng: rand.New(rand.NewPCG(1, 2))}
	if err := g.boot(); err != nil {
		return err
	}
	fmt.Fprintf(a.stdout, "at %#x\n", g.base)
	for lines := bufio.NewScanner(a.stdin); lines.Scan(); {
		g.work()
		if _, err := fmt.Fprintln(a.stdout, "done"); err != nil {
			return err
		}
	}
	return nil
}

// mapGuestMemory maps size bytes: of a new file if one is named, otherwise of nothing.
func mapGuestMemory(size int64, file string) ([]byte, error) {
	fd, flags := -1, unix.MAP_ANON|unix.MAP_PRIVATE
	if file != "" {
		f, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		if err := f.Truncate(size); err != nil {
			return nil, err
		}
		fd, flags = int(f.Fd()), unix.MAP_SHARED
	}
	mem, err := unix.Mmap(fd, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, flags)
	if err != nil {
		return nil, fmt.Errorf("map %d bytes: %w", size, err)
	}
	return mem, nil
}

// guestMemory holds what the memory of a busy machine holds: program code,
// files that are compressed already, a heap of records that point at each
// other, logs, and much that is free.
type guestMemory struct {
	mem  []byte
	base uint64 // address of mem
	rng  *rand.Rand

	code, files, heap, logs, free []byte // parts of mem
	logEnd                        int
	clock                         uint64
}

const guestRecord = 512 // bytes

func (g *guestMemory) boot() error {
	rest := g.mem
	part := func(sixteenths int) []byte {
		p := rest[:len(g.mem)/16*sixteenths&^(dirtyPage-1)]
		rest = rest[len(p):]
		return p
	}
	g.code, g.files, g.heap, g.logs, g.free = part(2), part(1), part(5), part(2), rest
	if err := g.load(); err != nil {
		return err
	}
	g.randomize(g.files)
	for off := 0; off < len(g.heap); off += guestRecord {
		g.record(off)
	}
	g.log(len(g.logs) / 2)
	return nil
}

// load fills the code with this program's own, over and over: what several processes load is there several times.
func (g *guestMemory) load() error {
	name, err := os.Executable()
	if err != nil {
		return err
	}
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	for at := 0; at < len(g.code); {
		n, err := f.ReadAt(g.code[at:], 0)
		if n == 0 || err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("read %s: %w", name, err)
		}
		at += (n + dirtyPage - 1) &^ (dirtyPage - 1)
	}
	return nil
}

// work changes some of everything: a few percent of the memory.
func (g *guestMemory) work() {
	for range len(g.heap) / guestRecord / 64 { // requests, most of them for what was asked for before
		at := int(float64(len(g.heap)) * g.rng.Float64() * g.rng.Float64() * g.rng.Float64())
		g.touch(at / guestRecord * guestRecord)
	}
	g.log(len(g.logs) / 20)
	g.randomize(g.some(g.files, 16)) // a file makes room for another
	clear(g.some(g.heap, 100))       // memory is given back
	copy(g.some(g.free, 100), g.some(g.heap, 100))
}

// some returns one nth of part, somewhere in it.
func (g *guestMemory) some(part []byte, nth int) []byte {
	n := len(part) / nth &^ (dirtyPage - 1)
	at := g.rng.IntN(len(part)-n) &^ (dirtyPage - 1)
	return part[at : at+n]
}

func (g *guestMemory) randomize(p []byte) {
	for ; len(p) >= 8; p = p[8:] {
		binary.LittleEndian.PutUint64(p, g.rng.Uint64())
	}
}

// record writes a record: pointers, counters, and text that repeats in part.
func (g *guestMemory) record(off int) {
	g.clock += g.rng.Uint64N(1000)
	r := g.heap[off : off+guestRecord]
	at := func(off int) uint64 { return g.base + uint64(len(g.code)+len(g.files)+off) }
	for i, word := range []uint64{at(off), at(g.rng.IntN(len(g.heap)) &^ (guestRecord - 1)), at((off + guestRecord) % len(g.heap)), g.clock, 0, 1} {
		binary.LittleEndian.PutUint64(r[8*i:], word)
	}
	text := fmt.Appendf(r[:64:guestRecord], `{"id":%d,"user":"user-%06x","session":"%016x","path":"/api/v1/objects/%d","agent":"client/4.2 (linux; amd64)","roles":["reader","writer"]}`,
		off/guestRecord, g.rng.Uint32N(1<<20), g.rng.Uint64(), g.rng.Uint32N(1<<16))
	clear(r[len(text):])
}

// touch is a request for a record.
func (g *guestMemory) touch(off int) {
	r := g.heap[off : off+guestRecord]
	g.clock += g.rng.Uint64N(1000)
	binary.LittleEndian.PutUint64(r[24:], g.clock)
	binary.LittleEndian.PutUint64(r[40:], binary.LittleEndian.Uint64(r[40:])+1)
}

// log appends lines, some n bytes of them, and begins anew at the end.
func (g *guestMemory) log(n int) {
	for n > 0 {
		g.clock += g.rng.Uint64N(1000)
		line := fmt.Appendf(nil, "%012d info request id=%016x status=%d bytes=%d took=%dus\n",
			g.clock, g.rng.Uint64(), []int{200, 200, 200, 304, 404}[g.rng.IntN(5)], g.rng.IntN(1<<16), g.rng.IntN(1<<12))
		if g.logEnd+len(line) > len(g.logs) {
			g.logEnd = 0
		}
		g.logEnd += copy(g.logs[g.logEnd:], line)
		n -= len(line)
	}
}
