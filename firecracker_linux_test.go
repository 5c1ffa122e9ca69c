package arcstore_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/arcboxlabs/arcstore"
	"github.com/arcboxlabs/arcstore/bench/firecracker"
	"github.com/arcboxlabs/arcstore/capture"
)

// microVM is a Firecracker that is played, and a store for it.
type microVM struct {
	*firecracker.Process
	opts  firecracker.Options
	m     *arcstore.Manager
	notes []string
	truth string // path of the file with the memory as it was, seen from here
}

func startMicroVM(t *testing.T, opts firecracker.Options, init *arcstore.InitOptions) *microVM {
	t.Helper()
	dir := t.TempDir()
	if opts.Socket == "" {
		opts.Socket, opts.Truth = filepath.Join(dir, "api"), filepath.Join(dir, "truth")
	}
	if opts.MemoryMiB == 0 {
		opts.MemoryMiB = 4
	}
	v := &microVM{opts: opts, truth: filepath.Join(opts.Jail, opts.Truth)}
	v.start(t)
	store := filepath.Join(dir, "store")
	if err := arcstore.Init(store, init); err != nil {
		t.Fatal(err)
	}
	v.open(t, store)
	return v
}

func (v *microVM) open(t *testing.T, store string) {
	t.Helper()
	m, err := arcstore.Open(t.Context(), store, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	v.m = m
}

func (v *microVM) start(t *testing.T) {
	t.Helper()
	os.Remove(v.socket())
	p, err := firecracker.Start(context.Background(), v.opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	v.Process = p
}

func (v *microVM) socket() string { return filepath.Join(v.opts.Jail, v.opts.Socket) }

func (v *microVM) create(ctx context.Context, diff bool, change func(*arcstore.CreateRequest, *arcstore.Events)) (*arcstore.Snapshot, error) {
	v.notes = nil
	req := &arcstore.CreateRequest{Target: "micro", Firecracker: &arcstore.Firecracker{Socket: v.socket(), Diff: diff}}
	events := &arcstore.Events{Note: func(text string) { v.notes = append(v.notes, text) }}
	if change != nil {
		change(req, events)
	}
	return v.m.Create(ctx, req, events)
}

// take takes a snapshot that must be of a kind, and be what the guest was; why is in its note, and "" is that there is none.
func (v *microVM) take(t *testing.T, diff bool, kind, why string) *arcstore.Snapshot {
	t.Helper()
	v.runsOn(t) // so that there is something new
	s, err := v.create(t.Context(), diff, nil)
	if err != nil {
		t.Fatal(err)
	}
	status := v.status(t)
	if status.Last != kind || status.State != firecracker.Running {
		t.Errorf("Firecracker wrote %s, not %s, and its guest is %s; notes: %q", status.Last, kind, status.State, v.notes)
	}
	if why == "" && len(v.notes) != 0 || why != "" && (len(v.notes) != 1 || !strings.Contains(v.notes[0], why)) {
		t.Errorf("notes are %q, want %q", v.notes, why)
	}
	if s.Cost.Pause <= 0 {
		t.Errorf("paused for %v", s.Cost.Pause)
	}
	if s.Host == nil || s.Host.VMM != capture.VMMFirecracker || s.Host.VMMVersion == "" {
		t.Errorf("taken on %+v", s.Host)
	}
	truth, err := os.ReadFile(v.truth)
	if err != nil {
		t.Fatal(err)
	}
	v.is(t, s.ID, truth)
	v.runsOn(t)
	return s
}

// is compares a snapshot's memory with what it should be.
func (v *microVM) is(t *testing.T, ref string, want []byte) {
	t.Helper()
	var got bytes.Buffer
	if _, err := v.m.RestoreStream(t.Context(), ref, "memory", &got, nil); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(), want) {
		for i := range want {
			if i >= got.Len() || got.Bytes()[i] != want[i] {
				t.Fatalf("snapshot %s of %d bytes differs from the %d that the guest had at %d", ref, got.Len(), len(want), i)
			}
		}
		t.Fatalf("snapshot %s has %d bytes, and the guest %d", ref, got.Len(), len(want))
	}
}

func (v *microVM) status(t *testing.T) firecracker.Status {
	t.Helper()
	s, err := v.Status()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// runsOn waits until the guest has written more.
func (v *microVM) runsOn(t *testing.T) {
	t.Helper()
	for begin := v.status(t); ; time.Sleep(time.Millisecond) {
		if now := v.status(t); now.Pages > begin.Pages {
			return
		}
		if t.Context().Err() != nil {
			t.Fatal("the guest does not run on")
		}
	}
}

// ask asks Firecracker as a stranger does.
func (v *microVM) ask(t *testing.T, method, path string, body any) (int, string) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", v.socket())
	}}}
	var content io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		content = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(t.Context(), method, "http://localhost"+path, content)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// must is ask for what must be done.
func (v *microVM) must(t *testing.T, method, path string, body any) {
	t.Helper()
	if status, text := v.ask(t, method, path, body); status != http.StatusNoContent {
		t.Fatalf("%s %s: %d %s", method, path, status, text)
	}
}

const asked = "asked for something since the parent"

// Snapshots of a guest that runs are what it was, whether Firecracker writes all of it or what changed.
func TestFirecracker(t *testing.T) {
	v := startMicroVM(t, firecracker.Options{}, nil)
	type kept struct {
		id    string
		truth []byte
	}
	var all []kept
	keep := func(s *arcstore.Snapshot) {
		truth, err := os.ReadFile(v.truth)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, kept{s.ID, truth})
	}
	keep(v.take(t, true, "Full", "there is no parent"))
	for range 4 {
		s := v.take(t, true, "Diff", "")
		if s.Parent != all[len(all)-1].id {
			t.Errorf("the parent is %s", s.Parent)
		}
		keep(s)
	}
	keep(v.take(t, false, "Full", ""))
	keep(v.take(t, true, "Diff", ""))

	// Another process of ours knows as much.
	dir := filepath.Join(filepath.Dir(v.truth), "store")
	v.m.Close()
	v.open(t, dir)
	keep(v.take(t, true, "Diff", ""))

	// Who only looks may have done more.
	if status, text := v.ask(t, "GET", "/", nil); status != http.StatusOK || !strings.Contains(text, "Running") {
		t.Errorf("%d %s", status, text)
	}
	keep(v.take(t, true, "Full", asked))
	keep(v.take(t, true, "Diff", ""))

	// A snapshot of somebody else's.
	v.must(t, "PATCH", "/vm", map[string]string{"state": "Paused"})
	v.must(t, "PUT", "/snapshot/create", map[string]string{"snapshot_type": "Diff", "snapshot_path": v.truth + ".s", "mem_file_path": v.truth + ".m"})
	v.must(t, "PATCH", "/vm", map[string]string{"state": "Resumed"})
	keep(v.take(t, true, "Full", asked))

	// One that is gone by now: what it is the difference to is not the newest that there is.
	keep(v.take(t, true, "Diff", ""))
	if _, err := v.m.Delete(t.Context(), all[len(all)-1].id); err != nil {
		t.Fatal(err)
	}
	all = all[:len(all)-1]
	keep(v.take(t, true, "Full", asked))
	s, err := v.create(t.Context(), true, func(req *arcstore.CreateRequest, _ *arcstore.Events) { req.Parent = all[0].id })
	if err != nil || v.status(t).Last != "Full" || s.Parent != all[0].id {
		t.Errorf("of another parent: %v, %v, %q", s, err, v.notes)
	}
	keep(s)

	for _, k := range all {
		v.is(t, k.id, k.truth)
	}
	for _, k := range all[:len(all)-1] {
		if _, err := v.m.Delete(t.Context(), k.id); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := v.m.GC(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	v.is(t, s.ID, all[len(all)-1].truth)
	// The files are those that Firecracker loads.
	out := filepath.Join(t.TempDir(), "out")
	if _, err := v.m.Restore(t.Context(), s.ID, out, nil); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"memory", capture.FirecrackerState, capture.FirecrackerOrigin} {
		if info, err := os.Stat(filepath.Join(out, name)); err != nil || info.Size() == 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Another process is another guest, wherever it listens.
func TestFirecrackerRestarted(t *testing.T) {
	v := startMicroVM(t, firecracker.Options{}, nil)
	v.take(t, true, "Full", "there is no parent")
	v.take(t, true, "Diff", "")
	v.Process.Close()
	v.start(t)
	v.take(t, true, "Full", "not the process that the parent is of")
	v.take(t, true, "Diff", "")

	// While the first one goes on, a second takes its place.
	first := v.Process
	if err := os.Rename(v.socket(), v.socket()+".old"); err != nil {
		t.Fatal(err)
	}
	v.start(t)
	v.take(t, true, "Full", "not the process that the parent is of")
	if s, err := first.Status(); err != nil || s.State != firecracker.Running {
		t.Errorf("the first one: %v, %v", s, err)
	}
}

// What fails leaves the guest running, and no snapshot; the next one is right, whatever Firecracker has forgotten by then.
func TestFirecrackerFails(t *testing.T) {
	v := startMicroVM(t, firecracker.Options{}, nil)
	v.take(t, true, "Full", "there is no parent")
	for _, test := range []struct{ what, err string }{
		{firecracker.Refuse, "No space left on device"},
		{firecracker.Fail, "No space left on device"},
		{firecracker.Garbage, "not one of Firecracker's API"},
		{firecracker.Corrupt, "the state that Firecracker wrote is damaged: its checksum is wrong"},
		{firecracker.Short, "its guest has 4 MiB"},
	} {
		t.Run(test.what, func(t *testing.T) {
			v.take(t, false, "Full", "") // whatever happened before
			v.take(t, true, "Diff", "")
			v.tell(t, test.what)
			// A difference that fails is not relied on.
			v.take(t, true, "Full", test.err)
			v.take(t, true, "Diff", "")
			v.tell(t, test.what)
			before := v.count(t)
			if s, err := v.create(t.Context(), false, nil); err == nil || !strings.Contains(err.Error(), test.err) {
				t.Errorf("%v, %v", s, err)
			}
			if n := v.count(t); n != before {
				t.Errorf("there are %d snapshots, and were %d", n, before)
			}
			v.runsOn(t)
			v.take(t, true, "Full", asked)
		})
	}
}

func (v *microVM) tell(t *testing.T, what string) {
	t.Helper()
	if err := v.Tell(what); err != nil {
		t.Fatal(err)
	}
}

func (v *microVM) count(t *testing.T) int {
	t.Helper()
	list, err := v.m.List(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// A create that ends when Firecracker has written the difference leaves nothing that the next one could build on.
func TestFirecrackerCancelled(t *testing.T) {
	v := startMicroVM(t, firecracker.Options{}, nil)
	v.take(t, true, "Full", "there is no parent")
	v.take(t, true, "Diff", "")
	ctx, cancel := context.WithCancel(t.Context())
	_, err := v.create(ctx, true, func(_ *arcstore.CreateRequest, events *arcstore.Events) {
		events.Progress = func(arcstore.Progress) { cancel() } // it is being stored
	})
	if !errors.Is(err, context.Canceled) || v.status(t).Last != "Diff" {
		t.Errorf("%v, %v", err, v.status(t))
	}
	v.runsOn(t)
	v.take(t, true, "Full", asked)

	// One that takes long, and is no longer waited for.
	v.take(t, true, "Diff", "")
	v.tell(t, firecracker.Hang)
	ctx, cancel = context.WithCancel(t.Context())
	done := make(chan error)
	before := v.status(t).Snapshots
	go func() {
		_, err := v.create(ctx, true, nil)
		done <- err
	}()
	for v.status(t).Snapshots == before {
		time.Sleep(time.Millisecond)
	}
	// Meanwhile it is nobody else's.
	if _, err := v.m.Create(t.Context(), &arcstore.CreateRequest{Target: "other", Firecracker: &arcstore.Firecracker{Socket: v.socket()}}, nil); err == nil ||
		!strings.Contains(err.Error(), "another snapshot of it is being taken") {
		t.Error(err)
	}
	cancel()
	v.tell(t, firecracker.Go)
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	v.runsOn(t)
	v.take(t, true, "Full", asked)
	v.take(t, true, "Diff", "")

	// One that dies.
	v.tell(t, firecracker.Die)
	if s, err := v.create(t.Context(), false, nil); err == nil || !strings.Contains(err.Error(), "closed the connection") {
		t.Errorf("%v, %v", s, err)
	}
}

// Where a difference cannot be relied on, all is written.
func TestFirecrackerDoubts(t *testing.T) {
	for _, test := range []struct {
		why  string
		opts firecracker.Options
		init *arcstore.InitOptions
	}{
		{"does not track dirty pages", firecracker.Options{Untracked: true}, nil},
		{"chunks are not pages", firecracker.Options{}, &arcstore.InitOptions{ChunkSize: 64 << 10}},
	} {
		t.Run(test.why, func(t *testing.T) {
			v := startMicroVM(t, test.opts, test.init)
			v.take(t, true, "Full", "there is no parent")
			v.take(t, true, "Full", test.why)
		})
	}

	t.Run("paused", func(t *testing.T) {
		v := startMicroVM(t, firecracker.Options{}, nil)
		v.take(t, true, "Full", "there is no parent")
		v.must(t, "PATCH", "/vm", map[string]string{"state": "Paused"})
		s, err := v.create(t.Context(), true, nil)
		if err != nil {
			t.Fatal(err)
		}
		truth, err := os.ReadFile(v.truth)
		if err != nil {
			t.Fatal(err)
		}
		v.is(t, s.ID, truth)
		if now := v.status(t); now.State != firecracker.Paused || now.Last != "Full" {
			t.Errorf("%+v", now) // it stays as it was
		}
	})

	t.Run("not started", func(t *testing.T) {
		v := startMicroVM(t, firecracker.Options{NotStarted: true}, nil)
		if s, err := v.create(t.Context(), true, nil); !errors.Is(err, arcstore.ErrInvalid) || !strings.Contains(err.Error(), "not started yet") {
			t.Errorf("%v, %v", s, err)
		}
	})

	t.Run("old", func(t *testing.T) { // but small enough
		v := startMicroVM(t, firecracker.Options{Version: "1.7.0"}, nil)
		v.take(t, true, "Full", "there is no parent")
		v.take(t, true, "Diff", "")
	})
}

// A Firecracker in a jail sees no store; it writes where it can, and nothing stays there.
func TestFirecrackerJailed(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("a jail takes root")
	}
	jail, err := os.MkdirTemp("", "jail")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(jail) })
	const user = 12345
	if err := os.Chown(jail, user, user); err != nil {
		t.Fatal(err)
	}
	v := startMicroVM(t, firecracker.Options{Jail: jail, User: user, Socket: "/api", Truth: "/truth"}, nil)
	v.take(t, true, "Full", "there is no parent")
	v.take(t, true, "Diff", "")
	v.take(t, true, "Diff", "")
	files, err := os.ReadDir(jail)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if f.Name() != "api" && f.Name() != "truth" {
			t.Errorf("%s is left in the jail", f.Name())
		}
	}
}

// What answers at the socket may be anything.
func TestFirecrackerStrangers(t *testing.T) {
	v := startMicroVM(t, firecracker.Options{}, nil)
	for name, text := range map[string]string{
		"silence":   "",
		"no http":   "hello\r\n\r\n",
		"no json":   "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
		"no state":  "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
		"cut off":   "HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{}",
		"no fault":  "HTTP/1.1 500 \r\nContent-Length: 0\r\n\r\n",
		"endless":   "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 2<<20),
		"any state": "HTTP/1.1 200 OK\r\nContent-Length: 17\r\n\r\n{\"state\":\"Flying\"}",
	} {
		socket := filepath.Join(t.TempDir(), "s")
		l, err := net.Listen("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					conn.Read(make([]byte, 4096))
					io.WriteString(conn, text)
					conn.Close()
				}()
			}
		}()
		s, err := v.m.Create(t.Context(), &arcstore.CreateRequest{Target: "stranger", Firecracker: &arcstore.Firecracker{Socket: socket}}, nil)
		if err == nil || !strings.Contains(err.Error(), "Firecracker at "+socket) {
			t.Errorf("%s: %v, %v", name, s, err)
		}
		t.Logf("%s: %v", name, err)
		l.Close()
	}
	if n := v.count(t); n != 0 {
		t.Errorf("%d snapshots are listed", n)
	}
}
