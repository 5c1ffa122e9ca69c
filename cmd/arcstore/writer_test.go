package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/arcboxlabs/arcstore"
	"github.com/arcboxlabs/arcstore/capture"
)

// writerProgram is the name under which the test binary is writerMain: a
// process that holds the store and never rests.
const writerProgram = "arcstore-test-writer"

// writerHolder is what it says it is.
const writerHolder = "the test writer"

// writerPages makes memory whose pages are all different.
func writerPages(r *rand.Rand, n int) []byte {
	b := make([]byte, n*4096)
	for i := range n {
		page := b[i*4096:][:4096]
		for at := 0; at < 512; at += 8 { // so that it compresses, as memory does
			binary.LittleEndian.PutUint64(page[at:], r.Uint64())
		}
	}
	return b
}

// writerMain creates small snapshots, deletes them again, and collects
// garbage, until its stdin ends. The small packs make gc lay together what the
// kept snapshots need, again and again. It says "held" when it has the store, and how many packs gc wrote in a line each.
func writerMain() {
	if err := runWriter(context.Background(), os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "writer:", err)
		os.Exit(1)
	}
}

func runWriter(ctx context.Context, stdin io.Reader, stdout io.Writer) error {
	m, err := arcstore.Open(ctx, os.Getenv(storeVariable), &arcstore.Options{Holder: writerHolder})
	if err != nil {
		return err
	}
	defer m.Close()
	fmt.Fprintln(stdout, "held")
	var stop atomic.Bool
	go func() {
		io.Copy(io.Discard, stdin)
		stop.Store(true)
	}()
	r := rand.New(rand.NewPCG(uint64(os.Getpid()), 1))
	var ids []string
	for !stop.Load() {
		for range 10 {
			e, err := m.CreateVM(ctx, "noise", &arcstore.VM{Memory: capture.Bytes(writerPages(r, 32+r.IntN(64)))}, &arcstore.CreateOptions{Parent: arcstore.ParentNone})
			if err != nil {
				return err
			}
			ids = append(ids, e.ID)
		}
		for len(ids) > 12 {
			i := r.IntN(len(ids))
			if _, err := m.Delete(ctx, ids[i]); err != nil {
				return err
			}
			ids[i] = ids[len(ids)-1]
			ids = ids[:len(ids)-1]
		}
		report, err := m.GC(ctx, nil)
		if err != nil {
			return err
		}
		fmt.Fprintln(stdout, report.PacksWritten)
	}
	return m.Close()
}

// writer is the process, as the test sees it.
type writer struct {
	cmd     *exec.Cmd
	stdin   io.Closer
	lines   *bufio.Scanner
	rewrote int // packs
}

func startWriter(t *testing.T) *writer {
	t.Helper()
	w := &writer{cmd: exec.Command(writerProgram)}
	w.cmd.Stderr = os.Stderr
	stdin, err := w.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	w.stdin = stdin
	stdout, err := w.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := w.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.cmd.Process.Kill() })
	w.lines = bufio.NewScanner(stdout)
	if !w.lines.Scan() || w.lines.Text() != "held" {
		t.Fatalf("the writer says %q, %v", w.lines.Text(), w.lines.Err())
	}
	return w
}

// drain counts what the writer says until it ends; then it returns how it ended.
func (w *writer) drain() error {
	for w.lines.Scan() {
		n, _ := strconv.Atoi(w.lines.Text())
		w.rewrote += n
	}
	return w.cmd.Wait()
}

// keptSnapshots puts two snapshots of a target into a new store, in a pack
// that is small and mostly dead, and returns their IDs and memories.
func keptSnapshots(t *testing.T) (ids []string, memories [][]byte) {
	t.Helper()
	dir := t.TempDir()
	t.Setenv(storeVariable, filepath.Join(dir, "store"))
	mustRun(t, "init")
	r := rand.New(rand.NewPCG(5, 5))
	first := writerPages(r, 500)
	second := bytes.Clone(first)
	copy(second[100*4096:], writerPages(r, 50))
	all := filepath.Join(dir, "all")
	save := func(b []byte) {
		if err := os.WriteFile(all, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	create := func(target string) string {
		var s arcstore.Snapshot
		if err := json.Unmarshal([]byte(mustRun(t, "create", "vm", target, "--memory", all, "--json")), &s); err != nil {
			t.Fatal(err)
		}
		return s.ID
	}
	save(append(bytes.Clone(first), writerPages(r, 500)...))
	dead := create("dead")
	for _, memory := range [][]byte{first, second} {
		save(memory)
		ids = append(ids, create("kept"))
		memories = append(memories, memory)
	}
	mustRun(t, "delete", dead)
	return ids, memories
}

// TestReadersBesideWriter: everything that reads does so in processes of its
// own, while another one creates, deletes and moves the chunks under them.
func TestReadersBesideWriter(t *testing.T) {
	ids, memories := keptSnapshots(t)
	w := startWriter(t)
	ended := make(chan error, 1)
	go func() { ended <- w.drain() }()
	duration := 6 * time.Second
	if os.Getenv("ARCSTORE_TEST_LONG") != "" {
		duration = time.Minute
	}
	end := time.Now().Add(duration)
	var group sync.WaitGroup
	reads := make([]atomic.Int64, 7)
	read := func(i int, check func(out string) string, args ...string) {
		cmd := exec.Command("arcstore", args...)
		var stderr strings.Builder
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			t.Errorf("arcstore %s: %v: %s%s", strings.Join(args, " "), err, out, stderr.String())
		} else if wrong := check(string(out)); wrong != "" {
			t.Errorf("arcstore %s: %s", strings.Join(args, " "), wrong)
		}
		reads[i].Add(1)
	}
	has := func(want ...string) func(string) string {
		return func(out string) string {
			for _, w := range want {
				if !strings.Contains(out, w) {
					return fmt.Sprintf("the output lacks %q: %s", w, out)
				}
			}
			return ""
		}
	}
	is := func(want []byte) func(string) string {
		return func(out string) string {
			if out != string(want) {
				return "wrong bytes"
			}
			return ""
		}
	}
	scratch := t.TempDir()
	for _, some := range [][]func(){
		{
			func() { read(0, has(ids...), "list", "--json") },
			func() { read(1, has(ids[0]), "show", ids[0], "--json") },
			func() { read(2, has("200 KiB"), "diff", ids[0], ids[1]) },
			func() { read(3, has("snapshots"), "stats", "--json") },
		},
		{
			func() {
				read(4, func(string) string {
					b, err := os.ReadFile(filepath.Join(scratch, "memory"))
					if err != nil {
						return err.Error()
					}
					return is(memories[1])(string(b))
				}, "restore", ids[1], "--output", scratch, "--force")
			},
			func() { read(4, is(memories[0]), "restore", ids[0], "--stream", "memory", "--output", "-") },
			func() { read(5, has(), "verify", "--data") },
			func() { read(6, has(), "verify", ids[0], ids[1], "--data") },
		},
	} {
		group.Go(func() {
			for time.Now().Before(end) && !t.Failed() {
				for _, f := range some {
					f()
				}
			}
		})
	}
	group.Wait()
	w.stdin.Close()
	if err := <-ended; err != nil {
		t.Errorf("the writer: %v", err)
	}
	if w.rewrote < 3 {
		t.Errorf("gc wrote %d packs: nothing moved under the readers", w.rewrote)
	}
	var counts []int64
	for i := range reads {
		counts = append(counts, reads[i].Load())
	}
	t.Logf("list, show, diff, stats, restore, verify, verify of some: %v; gc wrote %d packs meanwhile", counts, w.rewrote)
	mustRun(t, "verify", "--data")
}

// TestKilledHolder: a second writer waits and says for whom; of a holder that
// is killed nothing stays in the way.
func TestKilledHolder(t *testing.T) {
	ids, memories := keptSnapshots(t)
	w := startWriter(t)
	start := time.Now()
	cmd := exec.Command("arcstore", "delete", ids[0], "--lock-timeout", "500ms")
	out, err := cmd.CombinedOutput()
	if code := exitOf(err); code != exitInUse {
		t.Errorf("exit code %d, want %d", code, exitInUse)
	}
	if waited := time.Since(start); waited < 500*time.Millisecond {
		t.Errorf("it waited %v", waited)
	}
	if who := fmt.Sprintf("process %d (%s)", w.cmd.Process.Pid, writerHolder); !strings.Contains(string(out), who) {
		t.Errorf("the message lacks %q: %s", who, out)
	}
	w.cmd.Process.Kill()
	if err := w.drain(); err == nil {
		t.Error("the writer ended by itself")
	}
	mustRun(t, "gc")
	mustRun(t, "verify", "--data")
	for _, s := range list(t) {
		if s.State != "ready" {
			t.Errorf("snapshot %s is %s", s.ID, s.State)
		}
	}
	for i, id := range ids {
		if got := mustRun(t, "restore", id, "--stream", "memory", "--output", "-"); got != string(memories[i]) {
			t.Errorf("snapshot %s differs", id)
		}
	}
}
