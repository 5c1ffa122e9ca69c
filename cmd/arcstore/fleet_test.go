package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/arcboxlabs/arcstore"
	"github.com/arcboxlabs/arcstore/bench/s3server"
)

// host is a machine of a fleet: a store of its own, and the way to the bucket that all share.
type host struct {
	t   *testing.T
	dir string
	env []string
}

// newHost makes a store whose remote "fleet" is in a bucket, reached through endpoint.
func newHost(t *testing.T, s *s3server.Server, endpoint, bucket string) *host {
	t.Helper()
	h := &host{t: t, dir: t.TempDir()}
	h.env = append(os.Environ(), s.Environ()...)
	h.env = append(h.env, "AWS_ENDPOINT_URL="+endpoint, storeVariable+"="+h.path("store"))
	h.must(nil, "init")
	h.must(nil, "remote", "add", "fleet", "s3://"+bucket+"/fleet")
	return h
}

func (h *host) path(name string) string { return filepath.Join(h.dir, name) }

// command returns the program, about to run.
func (h *host) command(args ...string) *exec.Cmd {
	cmd := exec.Command("arcstore", args...)
	cmd.Env = h.env
	return cmd
}

// run runs the program, decodes the JSON that it prints into result unless that is nil, and returns its exit code and what it said.
func (h *host) run(result any, args ...string) (code int, said string) {
	if result != nil {
		args = append(args, "--json")
	}
	cmd := h.command(args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	code = exitOf(cmd.Run())
	if result != nil && code == 0 {
		if err := json.Unmarshal(stdout.Bytes(), result); err != nil {
			h.t.Errorf("arcstore %s: %v", strings.Join(args, " "), err)
		}
	}
	return code, stderr.String()
}

func (h *host) must(result any, args ...string) {
	h.t.Helper()
	if code, said := h.run(result, args...); code != 0 {
		h.t.Fatalf("arcstore %s: exit code %d: %s", strings.Join(args, " "), code, said)
	}
}

// create takes a snapshot of a memory and returns its ID.
func (h *host) create(target string, memory []byte) string {
	h.t.Helper()
	if err := os.WriteFile(h.path("ram"), memory, 0o600); err != nil {
		h.t.Fatal(err)
	}
	var made arcstore.Snapshot
	h.must(&made, "create", "vm", target, "--memory", h.path("ram"))
	return made.ID
}

// fleetImage is what all hosts have booted: pages that are all different and compress.
func fleetImage(seed uint64, pages int) []byte {
	return writerPages(rand.New(rand.NewPCG(seed, 7)), pages)
}

// period is when something was done.
type period struct{ begun, ended time.Time }

// fleetModel knows what must be in the bucket.
type fleetModel struct {
	mu      sync.Mutex
	memory  map[string][]byte
	pushed  map[string][]period // that were reported done
	deleted map[string][]period // that may have been done
}

func (m *fleetModel) did(where map[string][]period, ids []string, begun time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, id := range ids {
		where[id] = append(where[id], period{begun, time.Now()})
	}
}

// some returns a snapshot that somebody pushed.
func (m *fleetModel) some(r *rand.Rand) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := r.IntN(len(m.pushed) + 1)
	for id := range m.pushed {
		if n--; n < 0 {
			return id
		}
	}
	return ""
}

// kept returns the snapshots that were pushed and that nobody has deleted since that push began.
func (m *fleetModel) kept() (ids []string) {
	for id, pushes := range m.pushed {
		last := pushes[len(pushes)-1].begun
		gone := false
		for _, d := range m.deleted[id] {
			gone = gone || d.ended.After(last)
		}
		if !gone {
			ids = append(ids, id)
		}
	}
	return ids
}

// TestFleet lets four processes at once, of as many stores, push, pull, prune and collect in one bucket, behind a network
// that fails now and then. What a push reported done, and nobody deleted, restores bit for bit.
func TestFleet(t *testing.T) {
	t.Parallel()
	const hosts = 4
	rounds := 8
	if testing.Short() {
		rounds = 4
	}
	onServers(t, func(t *testing.T, s *s3server.Server) {
		seed := rand.Uint64()
		p, err := s3server.NewProxy(s, seed, s3server.Faults{SlowDown: 0.01, Internal: 0.01, Reset: 0.01, Cut: 0.01, CutUp: 0.01, Delay: 3 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(p.Close)
		m := &fleetModel{memory: make(map[string][]byte), pushed: make(map[string][]period), deleted: make(map[string][]period)}
		image := fleetImage(seed, 1500)
		var wg sync.WaitGroup
		for i := range hosts {
			h := newHost(t, s, p.Endpoint, "bucket")
			wg.Go(func() {
				r := rand.New(rand.NewPCG(seed, uint64(i)))
				for range rounds {
					fleetRound(h, m, r, fmt.Sprintf("vm-%d", i), image)
				}
			})
		}
		wg.Wait()
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
		checkFleet(t, newHost(t, s, s.Endpoint, "bucket"), m)
		t.Logf("seed %d: %d faults", seed, p.Injected.Load())
	})
}

// fleetRound does something of everything.
func fleetRound(h *host, m *fleetModel, r *rand.Rand, target string, image []byte) {
	t := h.t
	memory := bytes.Clone(image)
	copy(memory[r.IntN(1400)*4096:], writerPages(r, 50))
	id := h.create(target, memory)
	m.mu.Lock()
	m.memory[id] = memory
	m.mu.Unlock()

	begun := time.Now()
	var push arcstore.PushReport
	if code, said := h.run(&push, "push", id); code != 0 {
		t.Errorf("push: exit code %d: %s", code, said)
	}
	m.did(m.pushed, append(push.Pushed, push.Present...), begun)

	switch r.IntN(3) {
	case 0:
		begun := time.Now()
		var pruned arcstore.PruneReport
		code, said := h.run(&pruned, "remote", "prune", "fleet", "--keep-last", "2")
		if code != 0 {
			t.Errorf("prune: exit code %d: %s", code, said)
		}
		var ids []string
		for _, d := range pruned.Decisions {
			if !d.Keep {
				ids = append(ids, d.Snapshot.ID)
			}
		}
		m.did(m.deleted, ids, begun)
	case 1:
		if code, said := h.run(nil, "remote", "gc", "fleet", "--grace", []string{"0s", "300ms"}[r.IntN(2)]); code != 0 {
			t.Errorf("gc: exit code %d: %s", code, said)
		}
	case 2:
		id := m.some(r)
		if id == "" {
			return
		}
		// Without a grace period, what is being read may be deleted by somebody; that is no damage.
		switch code, said := h.run(nil, "pull", id); code {
		case 0:
			fleetRestore(h, m, id)
		case exitNotFound, exitFailed:
			t.Logf("pull: exit code %d: %s", code, said)
		default:
			t.Errorf("pull: exit code %d: %s", code, said)
		}
	}
}

// fleetRestore restores a snapshot, with more arguments if there are, and compares.
func fleetRestore(h *host, m *fleetModel, id string, args ...string) {
	h.t.Helper()
	out := h.path("out")
	h.must(nil, append([]string{"restore", id, "--output", out, "--force"}, args...)...)
	got, err := os.ReadFile(filepath.Join(out, "memory"))
	m.mu.Lock()
	defer m.mu.Unlock()
	if err != nil || !bytes.Equal(got, m.memory[id]) {
		h.t.Errorf("%s is not what it was: %v", id, err)
	}
}

// checkFleet restores all that must be there, before and after what nobody needs is gone.
func checkFleet(t *testing.T, h *host, m *fleetModel) {
	kept := m.kept()
	for range 2 {
		for _, id := range kept {
			fleetRestore(h, m, id, "--from", "fleet")
		}
		h.must(nil, "remote", "verify", "fleet", "--data")
		h.must(nil, "remote", "gc", "fleet", "--grace", "0s")
		h.must(nil, "remote", "gc", "fleet", "--grace", "0s")
	}
	var report arcstore.RemoteGCReport
	h.must(&report, "remote", "gc", "fleet", "--grace", "0s")
	if report.Snapshots < len(kept) || report.ObjectsCondemned != 0 || report.ObjectsDeleted != 0 {
		t.Errorf("%d snapshots must be there; in the end there is %+v", len(kept), report)
	}
	t.Logf("%d snapshots pushed, %d deleted, %d must be there: %+v", len(m.pushed), len(m.deleted), len(kept), report)
	if len(kept) == 0 || len(m.deleted) == 0 {
		t.Error("nothing was kept, or nothing deleted")
	}
}
