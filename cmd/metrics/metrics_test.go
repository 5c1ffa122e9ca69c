package metrics

import (
	"context"
	"errors"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/arcboxlabs/arcstore"
	"github.com/arcboxlabs/arcstore/capture"
)

// TestStore: what a real store does is counted as it was.
func TestStore(t *testing.T) {
	ctx := context.Background()
	dir := filepath.Join(t.TempDir(), "store")
	if err := arcstore.Init(dir, nil); err != nil {
		t.Fatal(err)
	}
	m := New()
	store, err := arcstore.Open(ctx, dir, &arcstore.Options{Observe: m.Observe})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	next := time.Now().Add(time.Hour)
	m.Watch(Watched{Store: store, Jobs: func() []Job { return []Job{{"gc"}, {"gc"}} },
		Schedules: func() []Schedule { return []Schedule{{Name: "s", Failures: 2, Unpushed: 3, Next: next}} }})
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(m)

	memory := []byte(strings.Repeat("0123456789abcdef", 4096/16*3))
	memory[4096], memory[8192] = 'x', 'y'
	vm := &arcstore.VM{Memory: capture.Bytes(memory)}
	for _, target := range []string{"a", "a", "b"} {
		if _, err := store.CreateVM(ctx, target, vm, nil); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := store.CreateVM(ctx, "", vm, nil); err == nil {
		t.Fatal("a target without a name")
	}
	if _, err := store.Restore(ctx, "a@latest", filepath.Join(dir, "..", "out"), nil); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Delete(ctx, "b@latest"); err != nil {
		t.Fatal(err)
	}
	if _, err := store.GC(ctx, &arcstore.GCOptions{DryRun: true}); err != nil {
		t.Fatal(err)
	}
	m.Observe(arcstore.Observation{Operation: "push", Err: errors.New("no"), Result: (*arcstore.PushReport)(nil)})
	m.Ran("s", "failed")
	want := `
arcstore_create_bytes_total{source="elsewhere"} 4096
arcstore_create_bytes_total{source="neighbour"} 8192
arcstore_create_bytes_total{source="new"} 12288
arcstore_create_bytes_total{source="parent"} 12288
arcstore_create_bytes_total{source="repeated"} 0
arcstore_jobs_running{operation="gc"} 2
arcstore_operations_total{operation="create",result="done"} 3
arcstore_operations_total{operation="create",result="failed"} 1
arcstore_operations_total{operation="delete",result="done"} 1
arcstore_operations_total{operation="push",result="failed"} 1
arcstore_operations_total{operation="restore",result="done"} 1
arcstore_schedule_failures{schedule="s"} 2
arcstore_schedule_last_success_timestamp_seconds{schedule="s"} 0
arcstore_schedule_runs_total{result="failed",schedule="s"} 1
arcstore_schedule_unpushed_snapshots{schedule="s"} 3
arcstore_snapshots_removed_total 1
arcstore_store_objects{kind="chunks"} 3
arcstore_store_objects{kind="packs"} 1
arcstore_store_objects{kind="snapshots"} 2
arcstore_store_objects{kind="targets"} 1
`
	page := httptest.NewRecorder()
	promhttp.HandlerFor(registry, promhttp.HandlerOpts{ErrorHandling: promhttp.HTTPErrorOnError}).ServeHTTP(page, httptest.NewRequest("GET", "/metrics", nil))
	text := page.Body.String()
	for line := range strings.Lines(strings.TrimSpace(want) + "\n") {
		if !strings.Contains(text, "\n"+line) {
			t.Errorf("there is no %s", line)
		}
	}
	if t.Failed() {
		t.Logf("%s", text)
	}
}

// TestDashboard: what the dashboard shows is there.
func TestDashboard(t *testing.T) {
	b, err := os.ReadFile("dashboard.json")
	if err != nil {
		t.Fatal(err)
	}
	described := make(chan *prometheus.Desc, 100)
	New().Describe(described)
	close(described)
	var names []string
	for d := range described {
		names = append(names, regexp.MustCompile(`fqName: "(\w+)"`).FindStringSubmatch(d.String())[1])
	}
	shown := make(map[string]bool)
	for _, name := range regexp.MustCompile(`arcstore_\w+`).FindAllString(string(b), -1) {
		for _, suffix := range []string{"_bucket", "_sum", "_count"} {
			name = strings.TrimSuffix(name, suffix)
		}
		shown[name] = true
		if !slices.Contains(names, name) {
			t.Errorf("the dashboard shows %s, which is not there", name)
		}
	}
	for _, name := range names {
		if !shown[name] {
			t.Errorf("the dashboard does not show %s", name)
		}
	}
}
