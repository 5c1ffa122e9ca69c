package main

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/arcboxlabs/arcstore"
	"github.com/arcboxlabs/arcstore/bench/s3server"
)

// onServers runs a test with a bucket, that is called "bucket", on each server that there is.
func onServers(t *testing.T, test func(t *testing.T, s *s3server.Server)) {
	for _, k := range s3server.Kinds {
		t.Run(k.Name, func(t *testing.T) {
			t.Parallel() // most of it is waiting
			s := startServer(t, k)
			if err := makeBucket(s, "bucket", false, false); err != nil {
				t.Fatal(err)
			}
			test(t, s)
		})
	}
}

// randomMemory does not compress.
func randomMemory(seed byte, n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// packsIn lists the packs in the bucket.
func packsIn(t *testing.T, s *s3server.Server) []string {
	t.Helper()
	c, err := serverClient(s)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := objects(c, "bucket", "fleet/packs/", false)
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

// TestKilledPush: of a push that was killed, what was sent is not sent again.
func TestKilledPush(t *testing.T) {
	t.Parallel()
	onServers(t, func(t *testing.T, s *s3server.Server) {
		const size = 100 << 20
		h := newHost(t, s, s.Endpoint, "bucket")
		memory := randomMemory(1, size)
		id := h.create("vm", memory)
		sent := 0
		for kills := range 2 {
			cmd := h.command("push", id, "--limit-upload", "30MiB")
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			for begun := time.Now(); len(packsIn(t, s)) < 2*(kills+1); {
				if time.Sleep(20 * time.Millisecond); time.Since(begun) > time.Minute {
					t.Fatal("it sends nothing")
				}
			}
			cmd.Process.Kill()
			if exitOf(cmd.Wait()) == 0 {
				t.Fatal("it was done before it was killed")
			}
			sent = len(packsIn(t, s))
		}
		var report arcstore.PushReport
		h.must(&report, "push", id)
		keys := packsIn(t, s)
		t.Logf("%d packs were there of %d; then: %+v", sent, len(keys), report)
		if report.Resumed < sent || report.Packs > len(keys)-sent {
			t.Errorf("of %d packs that were there, some were sent again", sent)
		}
		names := make(map[string]bool)
		for _, key := range keys {
			name := key[strings.LastIndexByte(key, '/')+1:]
			if names[name] {
				t.Errorf("%s is there twice", name)
			}
			names[name] = true
		}
		fleetRestore(h, &fleetModel{memory: map[string][]byte{id: memory}}, id, "--from", "fleet")
		// A push that was killed leaves nothing behind that others trip over, and a gc without a grace period nothing that is needed.
		h.must(nil, "remote", "gc", "fleet", "--grace", "0s")
		h.must(nil, "remote", "gc", "fleet", "--grace", "0s")
		h.must(nil, "remote", "verify", "fleet", "--data")
	})
}

// TestLimits: what --limit-upload and --limit-download say is what is sent and fetched in a second, or a little less.
func TestLimits(t *testing.T) {
	t.Parallel()
	onServers(t, func(t *testing.T, s *s3server.Server) {
		const size, share = 24 << 20, 8
		h := newHost(t, s, s.Endpoint, "bucket")
		rate := func(bytes int64, took time.Duration) float64 { return float64(bytes) / took.Seconds() }
		check := func(what string, free, limit, limited float64) {
			t.Logf("%s: %.1f MiB/s, limited to %.1f: %.1f", what, free/(1<<20), limit/(1<<20), limited/(1<<20))
			if limited > 1.2*limit || limited < limit/3 {
				t.Errorf("%s: it goes at %.2f of the limit", what, limited/limit)
			}
		}
		var free, limited arcstore.PushReport
		first, second := h.create("first", randomMemory(1, size)), h.create("second", randomMemory(2, size))
		h.must(&free, "push", first)
		limit := rate(free.Bytes, free.Duration) / share
		h.must(&limited, "push", second, "--limit-upload", fmt.Sprint(int64(limit)))
		check("push", rate(free.Bytes, free.Duration), limit, rate(limited.Bytes, limited.Duration))

		var pulled, pulledSlowly arcstore.PullReport
		other := newHost(t, s, s.Endpoint, "bucket")
		other.must(&pulled, "pull", first)
		limit = rate(pulled.BytesRead, pulled.Duration) / share
		other.must(&pulledSlowly, "pull", second, "--limit-download", fmt.Sprint(int64(limit)))
		check("pull", rate(pulled.BytesRead, pulled.Duration), limit, rate(pulledSlowly.BytesRead, pulledSlowly.Duration))
	})
}

// TestBadNetwork does everything through a network on which much goes wrong.
func TestBadNetwork(t *testing.T) {
	t.Parallel()
	onServers(t, func(t *testing.T, s *s3server.Server) {
		seed := rand.Uint64()
		faults := s3server.Faults{SlowDown: 0.08, Internal: 0.05, Reset: 0.05, Cut: 0.1, CutUp: 0.1, Delay: 10 * time.Millisecond}
		p, err := s3server.NewProxy(s, seed, faults)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(p.Close)
		h := newHost(t, s, p.Endpoint, "bucket")
		model := &fleetModel{memory: make(map[string][]byte)}
		memory := fleetImage(seed, 3000)
		var ids []string
		for range 3 {
			copy(memory[rand.IntN(2000)*4096:], writerPages(rand.New(rand.NewPCG(seed, uint64(len(ids)))), 300))
			id := h.create("vm", memory)
			ids, model.memory[id] = append(ids, id), slices.Clone(memory)
			h.must(nil, "push", id)
		}
		for _, id := range ids {
			fleetRestore(h, model, id, "--from", "fleet")
		}
		h.must(nil, "remote", "verify", "fleet", "--data")
		other := newHost(t, s, p.Endpoint, "bucket")
		other.must(nil, "pull", ids[2], ids[0])
		fleetRestore(other, model, ids[0])
		fleetRestore(other, model, ids[2])
		h.must(nil, "remote", "delete", "fleet", ids[1])
		h.must(nil, "remote", "gc", "fleet", "--grace", "0s")
		h.must(nil, "remote", "gc", "fleet", "--grace", "0s")
		h.must(nil, "remote", "verify", "fleet", "--data")
		t.Logf("seed %d: %d faults", seed, p.Injected.Load())

		// Where so much goes wrong that nothing is tried for long enough, commands fail. They do not take that for damage.
		for name, worse := range map[string]s3server.Faults{
			"SlowDown": {SlowDown: 0.5}, "Internal": {Internal: 0.5}, "Reset": {Reset: 0.5}, "Cut": {Cut: 0.5},
		} {
			p.Set(worse)
			hasty := *h
			hasty.env = append(slices.Clone(h.env), patienceVariable+"=120ms")
			failed := 0
			for i := range 12 {
				args := [][]string{
					{"remote", "verify", "fleet", "--data"},
					{"restore", ids[i%2*2], "--from", "fleet", "--output", h.path("hasty"), "--force"},
					{"remote", "show", "fleet", ids[0]},
					{"remote", "stats", "fleet"},
				}[i%4]
				switch code, said := hasty.run(nil, args...); code {
				case 0:
				case exitFailed:
					failed++
				default:
					t.Errorf("seed %d, %s: arcstore %s: exit code %d: %s", seed, name, strings.Join(args, " "), code, said)
				}
			}
			if failed == 0 {
				t.Errorf("seed %d, %s: no command failed", seed, name)
			}
		}
		p.Set(s3server.Faults{})
		h.must(nil, "remote", "verify", "fleet", "--data")
		for _, id := range []string{ids[0], ids[2]} {
			fleetRestore(h, model, id, "--from", "fleet")
		}
	})
}
