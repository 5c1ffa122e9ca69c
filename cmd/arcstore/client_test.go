package main

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/arcboxlabs/arcstore"
	"github.com/arcboxlabs/arcstore/bench/s3server"
	"github.com/arcboxlabs/arcstore/cmd/client"
	"github.com/arcboxlabs/arcstore/cmd/schedule"
	"github.com/arcboxlabs/arcstore/store/control"
)

// TestClient does all that a client can ask for, and holds each answer to the description; errors are what they are without a socket.
func TestClient(t *testing.T) {
	ctx := t.Context()
	s := startServer(t, s3server.Kinds[0])
	useServer(t.Setenv, s)
	if err := makeBucket(s, "client", false, false); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "store")
	m, api := startWatchedAPI(t, dir, arcstore.Passphrase("correct horse"))
	if err := m.AddRemote(ctx, arcstore.RemoteConfig{Name: "offsite", URL: "s3://client/x", Endpoint: s.Endpoint}); err != nil {
		t.Fatal(err)
	}
	c, err := client.Dial(ctx, dir)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	memory := filepath.Join(t.TempDir(), "memory")
	if err := os.WriteFile(memory, []byte(strings.Repeat("memory of a machine", 10_000)), 0o600); err != nil {
		t.Fatal(err)
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var events int
	told := &arcstore.Events{Progress: func(arcstore.Progress) { events++ }}
	first, err := c.Create(ctx, &arcstore.CreateRequest{Target: "a/b", Labels: map[string]string{"k": "v"}, Files: &arcstore.Files{Memory: memory,
		State: map[string]string{"vmstate": memory}, Machine: &arcstore.Machine{Architecture: "x86_64"}}}, told)
	must(err)
	second, err := c.Create(ctx, &arcstore.CreateRequest{Target: "a/b", Files: &arcstore.Files{Memory: memory}}, nil)
	must(err)
	if second.Parent != first.ID || events == 0 {
		t.Errorf("%+v, %d events", second, events)
	}
	info, err := c.Info(ctx)
	must(err)
	if info.PID != os.Getpid() || !info.Encrypted {
		t.Errorf("%+v", info)
	}
	must(c.SetCompression(ctx, "zstd"))
	list, err := c.List(ctx, "a/b")
	must(err)
	got, err := c.Get(ctx, "a/b@latest")
	must(err)
	if len(list) != 2 || got.ID != second.ID {
		t.Errorf("%d snapshots, the latest %s", len(list), got.ID)
	}
	_, err = c.Diff(ctx, first.ID, second.ID)
	must(err)
	_, err = c.Stats(ctx)
	must(err)
	out, old := filepath.Join(t.TempDir(), "out"), t.TempDir()
	_, err = m.ExportArcbox(ctx, second.ID, old, nil)
	must(err)
	restored, err := c.Restore(ctx, second.ID, out, nil)
	must(err)
	if restored.Bytes != second.Size {
		t.Errorf("%+v", restored)
	}
	verified, err := c.Verify(ctx, &arcstore.VerifyOptions{Data: true, Progress: told.Progress})
	must(err)
	if len(verified.Damage) > 0 {
		t.Errorf("%+v", verified)
	}
	pushed, err := c.Push(ctx, arcstore.TransferRequest{Remote: "offsite"}, told)
	must(err)
	if len(pushed.Pushed) != 2 {
		t.Errorf("%+v", pushed)
	}
	remotes, err := c.Remotes(ctx)
	must(err)
	if len(remotes) != 1 {
		t.Errorf("%+v", remotes)
	}
	_, err = c.RepairFrom(ctx, "", nil, told)
	must(err)
	pruned, err := c.Prune(ctx, arcstore.Retention{KeepLast: 1}, nil)
	must(err)
	if pruned.Removed != 1 {
		t.Errorf("%+v", pruned)
	}
	_, err = c.GC(ctx, &arcstore.GCOptions{Progress: told.Progress})
	must(err)
	pulled, err := c.Pull(ctx, arcstore.TransferRequest{Snapshots: []string{first.ID}}, told)
	must(err)
	if len(pulled.Pulled) != 1 {
		t.Errorf("%+v", pulled)
	}
	deleted, err := c.Delete(ctx, first.ID, second.ID[:10])
	must(err)
	if len(deleted) != 2 {
		t.Errorf("%d were deleted", len(deleted))
	}
	_, err = c.Reindex(ctx)
	must(err)
	imported, err := c.ImportArcbox(ctx, old, nil)
	must(err)
	if len(imported.Imported) != 1 {
		t.Errorf("%+v", imported)
	}
	slot, err := c.Keys().Add(ctx, arcstore.Passphrase("battery staple"), "second")
	must(err)
	keys, err := c.Keys().List(ctx)
	must(err)
	if len(keys) != 2 || keys[1].Label != "second" {
		t.Errorf("%+v", keys)
	}
	_, err = c.Keys().Remove(ctx, slot.ID)
	must(err)

	var run schedule.Run
	for _, path := range []string{"gc/pause", "gc/resume"} {
		must(c.Call(ctx, "POST", "/v1/schedules/"+path, nil, nil, nil))
	}
	must(c.Call(ctx, "POST", "/v1/schedules/gc/run", nil, &run, told))
	if run.Result != schedule.Done {
		t.Errorf("%+v", run)
	}
	must(c.Call(ctx, "POST", "/v1/schedules/broken/run", nil, &run, told))
	if run.Result != schedule.Failed || !strings.Contains(run.Error, "/nowhere") {
		t.Errorf("%+v", run)
	}
	var history []schedule.Run
	must(c.Call(ctx, "GET", "/v1/schedules/broken/history", nil, &history, nil))
	var statuses []schedule.Status
	must(c.Call(ctx, "GET", "/v1/schedules", nil, &statuses, nil))
	if len(history) != 1 || len(statuses) != 2 || statuses[0].Failures != 1 {
		t.Errorf("%+v, %+v", history, statuses)
	}

	for _, test := range []struct {
		name string
		err  error
		is   error
	}{
		{"get", second2(c.Get(ctx, "nothing")), arcstore.ErrNotFound},
		{"delete", second2(c.Delete(ctx, "nothing")), arcstore.ErrNotFound},
		{"delete nothing", second2(c.Delete(ctx)), arcstore.ErrInvalid},
		{"prune", second2(c.Prune(ctx, arcstore.Retention{}, nil)), arcstore.ErrInvalid},
		{"prune elsewhere", second2(c.Prune(ctx, arcstore.Retention{KeepLast: 1, Location: time.FixedZone("Moon", 5)}, nil)), arcstore.ErrInvalid},
		{"push", second2(c.Push(ctx, arcstore.TransferRequest{Remote: "nowhere"}, nil)), arcstore.ErrNoRemote},
		{"create nothing", second2(c.Create(ctx, &arcstore.CreateRequest{Target: "x"}, nil)), arcstore.ErrInvalid},
		{"create from here", second2(c.Create(ctx, &arcstore.CreateRequest{Target: "x", Files: &arcstore.Files{Memory: "memory"}}, nil)), arcstore.ErrInvalid},
		{"create of a process", second2(c.Create(ctx, &arcstore.CreateRequest{Target: "x", Container: &arcstore.Container{Runc: "none", PID: 3}}, nil)), arcstore.ErrInvalid},
		{"key", second2(c.Keys().Remove(ctx, keys[0].ID)), arcstore.ErrInvalid},
		{"cancel", c.Cancel(ctx, "nothing"), control.ErrNoJob},
		{"schedule", c.Call(ctx, "POST", "/v1/schedules/none/run", nil, nil, nil), arcstore.ErrNoSchedule},
		{"nothing", c.Call(ctx, "GET", "/v2/store", nil, nil, nil), control.ErrNoSuch},
		{"unknown field", c.Call(ctx, "POST", "/v1/gc", map[string]any{"dry": true}, nil, nil), control.ErrRequest},
	} {
		if !errors.Is(test.err, test.is) {
			t.Errorf("%s: %v, which is not %v", test.name, test.err, test.is)
		}
	}

	// A guest that does not answer keeps a job at work until somebody cancels it, or goes away.
	silent, err := net.Listen("unix", filepath.Join(t.TempDir(), "qmp"))
	must(err)
	defer silent.Close()
	req := &arcstore.CreateRequest{Target: "silent", QEMU: &arcstore.QEMU{Socket: silent.Addr().String()}}
	ended := make(chan error, 1)
	begin := func(ctx context.Context) client.Job {
		t.Helper()
		go func() {
			_, err := c.Create(ctx, req, told)
			ended <- err
		}()
		for {
			jobs, err := c.Jobs(t.Context())
			must(err)
			if len(jobs) == 1 && jobs[0].Subject == "silent" {
				return jobs[0]
			}
		}
	}
	job := begin(ctx)
	must(c.Cancel(ctx, job.ID))
	if err := <-ended; !errors.Is(err, control.ErrCancelled) {
		t.Errorf("cancelled: %v", err)
	}
	leaving, leave := context.WithCancel(ctx)
	begin(leaving)
	leave()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("left: %v", err)
	}
	for jobs, err := c.Jobs(ctx); len(jobs) > 0; jobs, err = c.Jobs(ctx) {
		must(err)
	}
	if unseen := api.unseen(); len(unseen) > 0 {
		t.Errorf("nobody did %q", unseen)
	}
}

func second2[T any](_ T, err error) error { return err }
