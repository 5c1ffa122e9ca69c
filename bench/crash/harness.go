package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/arcboxlabs/arcstore"
)

// snapshot is what the model knows of one in the store.
type snapshot struct {
	id, target string
	memory     memory
}

// A harness runs operations in child processes, kills them, and compares the
// store with its model.
type harness struct {
	dir   string // for everything
	store string
	pages int // of a memory
	r     *rand.Rand
	log   io.Writer

	snapshots  []snapshot        // reported ready and not deleted, oldest first
	memories   map[string]memory // what each target holds now
	generation int
	took       map[string]time.Duration // by kind of operation, the mean of late
	plain      bool                     // this store keeps to one codec

	killed map[string]int // by kind of operation and phase
	ended  int            // children that were done before they could be killed
	checks int            // comparisons with a fresh store
}

func newHarness(dir string, seed uint64, pages int, log io.Writer) *harness {
	return &harness{dir: dir, pages: pages, r: rand.New(rand.NewPCG(seed, 0)), log: log,
		took: make(map[string]time.Duration), killed: make(map[string]int)}
}

// begin starts over with an empty store.
func (h *harness) begin() error {
	h.store = filepath.Join(h.dir, "store")
	if err := os.RemoveAll(h.store); err != nil {
		return err
	}
	h.snapshots, h.memories = nil, make(map[string]memory)
	h.plain = !h.plain
	return arcstore.Init(h.store, nil)
}

// lifetime is how many kills a store lives through.
const lifetime = 60

// sizeEvery is after how many kills the store's size is compared with a fresh one's.
const sizeEvery = 5

// run kills as many children.
func (h *harness) run(ctx context.Context, kills int) error {
	for n := 0; n < kills; {
		if n%lifetime == 0 {
			if err := h.begin(); err != nil {
				return err
			}
		}
		o, err := h.choose()
		if err != nil {
			return err
		}
		killed, err := h.operate(ctx, o)
		if err != nil {
			return fmt.Errorf("%s: %w", o.Op, err)
		}
		if !killed {
			h.ended++
			continue
		}
		n++
		if err := h.check(ctx, o); err != nil {
			return fmt.Errorf("after kill %d, in a %s: %w", n, o.Op, err)
		}
		if n%sizeEvery == 0 {
			if err := h.checkSize(ctx); err != nil {
				return fmt.Errorf("after kill %d, in a %s: %w", n, o.Op, err)
			}
		}
		if n%50 == 0 {
			fmt.Fprintf(h.log, "crash: %d kills, %d snapshots in the store\n", n, len(h.snapshots))
		}
	}
	return nil
}

// choose makes up the next operation.
func (h *harness) choose() (order, error) {
	o := order{Op: opCreate, Store: h.store, Scratch: h.dir}
	if n := len(h.snapshots); n > 1 {
		switch p := h.r.IntN(100); {
		case p < 42 && n < 10:
		case p < 55:
			o.Op = opDelete
		case p < 60:
			o.Op = opPrune
		case p < 85:
			o.Op = opGC
		case p < 90:
			o.Op = opReindex
		case p < 93 && !h.plain:
			o.Op = opCompress
		case p < 96:
			o.Op = opVerify
		default:
			o.Op = opRestore
		}
	}
	switch o.Op {
	case opCreate:
		return h.chooseCreate(o)
	case opDelete:
		for _, i := range h.r.Perm(len(h.snapshots))[:1+h.r.IntN(2)] {
			o.IDs = append(o.IDs, h.snapshots[i].id)
		}
	case opPrune:
		o.Target = h.snapshots[h.r.IntN(len(h.snapshots))].target
		o.Keep = 1 + h.r.IntN(3)
	case opCompress:
		o.Codec = []string{"lz4", "zstd"}[h.r.IntN(2)]
	case opRestore:
		o.IDs = []string{h.snapshots[h.r.IntN(len(h.snapshots))].id}
	}
	return o, nil
}

// chooseCreate lets a target go on for a while and has it snapshotted.
func (h *harness) chooseCreate(o order) (order, error) {
	o.Target = "vm-" + strconv.Itoa(h.r.IntN(3))
	now, dirty := h.memories[o.Target], []byte(nil)
	switch {
	case len(h.snapshots) > 0 && (now == nil && h.r.IntN(2) == 0 || h.r.IntN(10) == 0): // a clone, as it was or after a while
		from := h.snapshots[h.r.IntN(len(h.snapshots))]
		o.Parent, o.Kind = from.id, "clone"
		if now = from.memory; h.r.IntN(2) == 0 {
			now, o.Dirty = now.change(h.r)
		}
	case now == nil:
		now = newMemory(h.r, h.pages/2+h.r.IntN(h.pages*5/6+1))
		o.Kind = "first"
	default:
		o.Kind = "next"
		now, dirty = now.change(h.r)
		// A bitmap is right only against the snapshot that was there when it was begun.
		if last := h.latest(o.Target); last != nil && h.r.IntN(3) == 0 && sameMemory(last.memory, h.memories[o.Target]) {
			o.Parent, o.Dirty, o.Kind = last.id, dirty, "bitmap"
		} else if h.r.IntN(8) == 0 {
			o.Parent, o.Kind = arcstore.ParentNone, "full"
		}
	}
	h.memories[o.Target] = now
	h.generation++
	o.Generation = strconv.Itoa(h.generation)
	o.Memory = filepath.Join(h.dir, "memory")
	return o, now.save(o.Memory)
}

func (h *harness) latest(target string) *snapshot {
	for i := len(h.snapshots) - 1; i >= 0; i-- {
		if h.snapshots[i].target == target {
			return &h.snapshots[i]
		}
	}
	return nil
}

func sameMemory(a, b memory) bool { return len(a) > 0 && len(b) > 0 && &a[0] == &b[0] }

// operate runs a child and kills it at a random moment. It says whether the
// child was killed before it was done.
func (h *harness) operate(ctx context.Context, o order) (killed bool, err error) {
	text, err := json.Marshal(o)
	if err != nil {
		return false, err
	}
	self, err := os.Executable()
	if err != nil {
		return false, err
	}
	cmd := exec.CommandContext(ctx, self)
	cmd.Env = append(os.Environ(), childEnv+"="+string(text))
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return false, err
	}
	start := time.Now()
	if err := cmd.Start(); err != nil {
		return false, err
	}
	// Kills spread over the whole of the operation, and a few come at its very
	// beginning. Every third child may live, so that the store grows old, and
	// the first of a kind does, to tell how long that takes.
	if took := h.took[o.kind()]; took > 0 && h.r.IntN(3) > 0 {
		span := took * 11 / 10
		if h.r.IntN(12) == 0 {
			span = took / 10
		}
		timer := time.AfterFunc(time.Duration(h.r.Int64N(int64(span)+1)), func() { cmd.Process.Kill() })
		defer timer.Stop()
	}
	phase, done := "start", false
	lines := bufio.NewScanner(stdout)
	for lines.Scan() {
		switch word, rest, _ := strings.Cut(lines.Text(), " "); word {
		case "phase":
			phase = rest
		case "ready":
			memory, err := loadMemory(o.Memory)
			if err != nil {
				return false, err
			}
			h.snapshots = append(h.snapshots, snapshot{id: rest, target: o.Target, memory: h.keep(o.Target, memory)})
		case "returned":
			h.settle(o)
		case "done":
			done = true
		}
	}
	err = cmd.Wait()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit) && !exit.Exited():
		if !done {
			h.killed[o.kind()+" / "+phase]++
		}
	case err != nil:
		return false, fmt.Errorf("child: %w: %s", err, bytes.TrimSpace(stderr.Bytes()))
	}
	if done {
		h.learn(o.kind(), time.Since(start))
	}
	return !done, ctx.Err()
}

// keep returns the target's own copy of memory, so that "the same" can be told by address.
func (h *harness) keep(target string, m memory) memory {
	if now := h.memories[target]; now != nil {
		return now
	}
	return m
}

// learn keeps how long a kind of operation takes.
func (h *harness) learn(kind string, took time.Duration) {
	if mean := h.took[kind]; mean > 0 {
		took = (3*mean + took) / 4
	}
	h.took[kind] = took
}

// settle takes what an operation that returned has deleted out of the model:
// from then on it must not come back.
func (h *harness) settle(o order) {
	gone := make(map[string]bool)
	switch o.Op {
	case opDelete:
		for _, id := range o.IDs {
			gone[id] = true
		}
	case opPrune:
		for _, id := range h.prunable(o) {
			gone[id] = true
		}
	default:
		return
	}
	h.drop(gone)
}

// prunable returns what a prune may delete.
func (h *harness) prunable(o order) []string {
	var ids []string
	kept := 0
	for i := len(h.snapshots) - 1; i >= 0; i-- {
		if s := h.snapshots[i]; s.target == o.Target {
			if kept++; kept > o.Keep {
				ids = append(ids, s.id)
			}
		}
	}
	return ids
}

func (h *harness) drop(gone map[string]bool) {
	var left []snapshot
	for _, s := range h.snapshots {
		if !gone[s.id] {
			left = append(left, s)
		}
	}
	h.snapshots = left
}
