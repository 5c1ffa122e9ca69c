package main

import (
	"bytes"
	"context"
	"encoding"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/openapi3gen"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/gorillamux"

	"github.com/arcboxlabs/arcstore"
	"github.com/arcboxlabs/arcstore/cmd/metrics"
	"github.com/arcboxlabs/arcstore/cmd/schedule"
	"github.com/arcboxlabs/arcstore/store/control"
)

var updateAPI = flag.Bool("update-api", false, "write cmd/client/openapi.json anew")

// apiFile describes what the control socket answers, to clients in other languages.
var apiFile = filepath.Join("..", "client", "openapi.json")

// apiOperation is a line of that description.
type apiOperation struct {
	method, path, summary string
	query                 map[string]string // descriptions by name
	params, result        any               // values of their types; nil for none
	lines                 bool              // it may answer with lines of events
}

// apiNothing is the answer of what has nothing to say.
type apiNothing struct{}

var apiOperations = []apiOperation{
	{"GET", "/v1/store", "What the store is, and who holds it", nil, nil, arcstore.Info{}, false},
	{"PATCH", "/v1/store", "Change the compression of new frames", nil, arcstore.InfoChange{}, arcstore.Info{}, false},
	{"GET", "/v1/stats", "The store as a whole", nil, nil, arcstore.Stats{}, false},
	{"GET", "/v1/jobs", "Operations that run, the oldest first", nil, nil, []control.Job{}, false},
	{"DELETE", "/v1/jobs/{id}", "Cancel an operation", nil, nil, apiNothing{}, false},
	{"GET", "/v1/snapshots", "List snapshots, the oldest first", map[string]string{"target": "those of one target"}, nil, []*arcstore.Snapshot{}, false},
	{"GET", "/v1/snapshots/{ref}", "One snapshot, by its ID, a unique prefix, or TARGET@latest", nil, nil, arcstore.Snapshot{}, false},
	{"POST", "/v1/snapshots", "Take a snapshot; it is durable when the answer has it", nil, arcstore.CreateRequest{}, arcstore.Snapshot{}, true},
	{"DELETE", "/v1/snapshots", "Delete snapshots: all that are named, or none", map[string]string{"snapshot": "may be repeated"}, nil, []*arcstore.Snapshot{}, false},
	{"GET", "/v1/diff", "Compare two snapshots", map[string]string{"a": "a snapshot", "b": "another"}, nil, arcstore.DiffReport{}, false},
	{"POST", "/v1/restore", "Restore a snapshot to files", nil, arcstore.RestoreRequest{}, arcstore.RestoreReport{}, true},
	{"POST", "/v1/import", "Import the predecessor's snapshots", nil, arcstore.ImportRequest{}, arcstore.ImportReport{}, true},
	{"POST", "/v1/prune", "Delete what a retention does not keep", nil, arcstore.PruneRequest{}, arcstore.PruneReport{}, true},
	{"POST", "/v1/gc", "Give back the space that no snapshot needs", nil, arcstore.GCOptions{}, arcstore.GCReport{}, true},
	{"POST", "/v1/verify", "Check that snapshots are whole", nil, arcstore.VerifyOptions{}, arcstore.VerifyReport{}, true},
	{"POST", "/v1/repair", "Get from a remote what is damaged", nil, arcstore.RepairRequest{}, arcstore.RepairReport{}, true},
	{"POST", "/v1/reindex", "Make the index again", nil, nil, arcstore.ReindexReport{}, true},
	{"GET", "/v1/remotes", "The store's remotes", nil, nil, []arcstore.RemoteConfig{}, false},
	{"POST", "/v1/push", "Copy snapshots to a remote", nil, arcstore.TransferRequest{}, arcstore.PushReport{}, true},
	{"POST", "/v1/pull", "Copy snapshots from a remote", nil, arcstore.TransferRequest{}, arcstore.PullReport{}, true},
	{"GET", "/v1/keys", "The secrets that open an encrypted store, without themselves", nil, nil, []arcstore.KeySlot{}, false},
	{"POST", "/v1/keys", "Let another secret open the store", nil, arcstore.KeyRequest{}, arcstore.KeySlot{}, false},
	{"DELETE", "/v1/keys/{id}", "Let a secret open the store no more", nil, nil, arcstore.KeySlot{}, false},
	{"GET", "/v1/schedules", "The schedules, and how they are doing", nil, nil, []schedule.Status{}, false},
	{"GET", "/v1/schedules/{name}/history", "The last runs of a schedule, the newest last", nil, nil, []schedule.Run{}, false},
	{"POST", "/v1/schedules/{name}/run", "Run a schedule now, and wait until it is done", nil, nil, schedule.Run{}, true},
	{"POST", "/v1/schedules/{name}/pause", "Keep a schedule from running by itself", nil, nil, apiNothing{}, false},
	{"POST", "/v1/schedules/{name}/resume", "Let it run by itself again", nil, nil, apiNothing{}, false},
}

// describeAPI makes the description.
func describeAPI() (*openapi3.T, error) {
	doc := &openapi3.T{OpenAPI: "3.0.3", Info: &openapi3.Info{Title: "arcstore", Version: "1",
		Description: "What the process that holds a store answers at its socket control.sock, by HTTP. Paths of files are absolute. " +
			"An operation ends when the connection that asked for it is closed. Who accepts application/x-ndjson gets a line for each event of a long " +
			"operation; the last one has its result, or its error."},
		Components: &openapi3.Components{Schemas: make(openapi3.Schemas)}, Paths: openapi3.NewPaths(),
		Servers: openapi3.Servers{{URL: "http://store", Description: "the socket; the host is not looked at"}}}
	schema := func(v any) (*openapi3.SchemaRef, error) {
		return openapi3gen.NewSchemaRefForValue(v, doc.Components.Schemas, openapi3gen.SchemaCustomizer(customizeAPI))
	}
	failure, err := schema(control.Event{})
	if err != nil {
		return nil, err
	}
	var kinds []any
	for _, k := range arcstore.ErrorKinds {
		if !slices.Contains(kinds, any(k.Name)) {
			kinds = append(kinds, k.Name)
		}
	}
	failure.Value.Properties["error"].Value.Properties["kinds"].Value.Items = openapi3.NewStringSchema().WithEnum(kinds...).NewRef()
	doc.Components.Schemas["Event"] = openapi3.NewSchemaRef("", failure.Value)
	event := openapi3.NewSchemaRef("#/components/schemas/Event", failure.Value)
	for _, op := range apiOperations {
		o := &openapi3.Operation{Summary: op.summary, OperationID: operationID(op), Responses: openapi3.NewResponses()}
		for _, m := range pathParameter.FindAllStringSubmatch(op.path, -1) {
			o.AddParameter(openapi3.NewPathParameter(m[1]).WithSchema(openapi3.NewStringSchema()))
		}
		names := make([]string, 0, len(op.query))
		for name := range op.query {
			names = append(names, name)
		}
		slices.Sort(names)
		for _, name := range names {
			o.AddParameter(openapi3.NewQueryParameter(name).WithDescription(op.query[name]).WithSchema(openapi3.NewArraySchema().WithItems(openapi3.NewStringSchema())))
		}
		if op.params != nil {
			s, err := schema(op.params)
			if err != nil {
				return nil, err
			}
			o.RequestBody = &openapi3.RequestBodyRef{Value: openapi3.NewRequestBody().WithContent(openapi3.NewContentWithSchemaRef(s, []string{control.JSON}))}
		}
		s, err := schema(op.result)
		if err != nil {
			return nil, err
		}
		content := openapi3.NewContentWithSchemaRef(s, []string{control.JSON})
		if op.lines {
			content[control.Lines] = openapi3.NewMediaType().WithSchemaRef(event)
		}
		o.Responses.Set("200", &openapi3.ResponseRef{Value: openapi3.NewResponse().WithDescription("done").WithContent(content)})
		o.Responses.Set("default", &openapi3.ResponseRef{Value: openapi3.NewResponse().WithDescription("not done").
			WithContent(openapi3.NewContentWithSchemaRef(event, []string{control.JSON}))})
		o.Responses.Delete("default")
		o.Responses.Set("default", &openapi3.ResponseRef{Value: openapi3.NewResponse().WithDescription("not done").
			WithContent(openapi3.NewContentWithSchemaRef(event, []string{control.JSON}))})
		doc.AddOperation(op.path, op.method, o)
	}
	return doc, nil
}

var pathParameter = regexp.MustCompile(`\{(\w+)\}`)

func operationID(op apiOperation) string {
	words := strings.FieldsFunc(strings.TrimPrefix(op.path, "/v1"), func(r rune) bool { return strings.ContainsRune("/{}", r) })
	return strings.ToLower(op.method) + "-" + strings.Join(words, "-")
}

// customizeAPI makes schemas of Go's types what encoding/json makes of their values.
func customizeAPI(_ string, t reflect.Type, _ reflect.StructTag, s *openapi3.Schema) error {
	text := reflect.TypeFor[encoding.TextMarshaler]()
	switch {
	case t == reflect.TypeFor[json.RawMessage]():
		*s = openapi3.Schema{Description: "any value"}
	case t.String() == "time.Time":
		*s = *openapi3.NewDateTimeSchema()
	case t.Implements(text) || reflect.PointerTo(t).Implements(text):
		*s = *openapi3.NewStringSchema()
	case t.Kind() == reflect.Slice || t.Kind() == reflect.Map || t.Kind() == reflect.Pointer:
		s.Nullable = true
	case t.Kind() == reflect.Struct:
		no := false
		s.AdditionalProperties = openapi3.BoolSchema{Has: &no}
	}
	s.Min, s.Max = nil, nil // Go's widths say nothing
	return nil
}

// TestAPIDescription: the description is of what there is, and has nothing else.
func TestAPIDescription(t *testing.T) {
	doc, err := describeAPI()
	if err != nil {
		t.Fatal(err)
	}
	want, err := json.MarshalIndent(doc, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	want = append(want, '\n')
	if *updateAPI {
		if err := os.WriteFile(apiFile, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(apiFile)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s is not what the types say, %v: go test ./cmd/arcstore -run TestAPIDescription -update-api writes it anew", apiFile, err)
	}
	loaded, err := openapi3.NewLoader().LoadFromData(got)
	if err != nil {
		t.Fatal(err)
	}
	if err := loaded.Validate(context.Background()); err != nil {
		t.Error(err)
	}
	var described []string
	for _, op := range apiOperations {
		described = append(described, op.method+" "+op.path)
	}
	var there []string
	for _, name := range []string{"../../routes.go", "../schedule/runner.go"} {
		source, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`"((?:GET|POST|PATCH|PUT|DELETE) /v1/[^"]*)"`).FindAllStringSubmatch(string(source), -1) {
			there = append(there, strings.ReplaceAll(m[1], "...}", "}"))
		}
	}
	slices.Sort(described)
	slices.Sort(there)
	if !slices.Equal(described, there) {
		t.Errorf("described are %q, there are %q", described, there)
	}
}

// watchedAPI holds what a server answers to its description.
type watchedAPI struct {
	t      *testing.T
	next   http.Handler
	router routers.Router

	mu   sync.Mutex
	seen map[string]bool // operations that were done
}

func (a *watchedAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	r.Body = io.NopCloser(bytes.NewReader(body))
	rec := &recorder{ResponseWriter: w, status: http.StatusOK}
	a.next.ServeHTTP(rec, r)
	r.Body = io.NopCloser(bytes.NewReader(body))
	r.URL.Host, r.URL.Scheme = "store", "http"
	// Targets may have slashes.
	if rest, ok := strings.CutPrefix(r.URL.Path, "/v1/snapshots/"); ok {
		r.URL.Path = "/v1/snapshots/" + strings.ReplaceAll(rest, "/", "-")
	}
	route, params, err := a.router.FindRoute(r)
	if err != nil {
		if rec.status != http.StatusNotFound {
			a.t.Errorf("%s %s is not described: %v", r.Method, r.URL.Path, err)
		}
		return
	}
	if rec.status == http.StatusOK {
		a.mu.Lock()
		a.seen[route.Method+" "+route.Path] = true
		a.mu.Unlock()
	}
	in := &openapi3filter.RequestValidationInput{Request: r, PathParams: params, Route: route}
	if err := openapi3filter.ValidateRequest(r.Context(), in); err != nil && rec.status == http.StatusOK {
		a.t.Errorf("%s %s: the request: %v", r.Method, r.URL.Path, err)
	}
	answers := [][]byte{rec.body.Bytes()}
	if rec.Header().Get("Content-Type") == control.Lines {
		answers = bytes.Split(bytes.TrimSpace(rec.body.Bytes()), []byte("\n"))
	}
	for _, b := range answers {
		out := &openapi3filter.ResponseValidationInput{RequestValidationInput: in, Status: rec.status, Header: rec.Header()}
		if err := openapi3filter.ValidateResponse(context.WithoutCancel(r.Context()), out.SetBodyBytes(b)); err != nil {
			a.t.Errorf("%s %s answers %d %s: %v", r.Method, r.URL.Path, rec.status, b, err)
		}
	}
}

// recorder keeps what is answered.
type recorder struct {
	http.ResponseWriter
	status int
	body   bytes.Buffer
}

func (r *recorder) WriteHeader(status int) {
	r.status = status
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(b []byte) (int, error) {
	r.body.Write(b)
	return r.ResponseWriter.Write(b)
}

func (r *recorder) Flush() { r.ResponseWriter.(http.Flusher).Flush() }

// startWatchedAPI serves a new store with two schedules at its socket, and holds all answers to the description.
func startWatchedAPI(t *testing.T, dir string, secret arcstore.Secret) (*arcstore.Manager, *watchedAPI) {
	t.Helper()
	openapi3filter.RegisterBodyDecoder(control.Lines, openapi3filter.JSONBodyDecoder)
	doc, err := openapi3.NewLoader().LoadFromFile(apiFile)
	if err != nil {
		t.Fatal(err)
	}
	router, err := gorillamux.NewRouter(doc)
	if err != nil {
		t.Fatal(err)
	}
	if err := arcstore.Init(dir, &arcstore.InitOptions{Secret: secret}); err != nil {
		t.Fatal(err)
	}
	m, err := arcstore.Open(t.Context(), dir, &arcstore.Options{Secret: func() (arcstore.Secret, error) { return secret, nil }})
	if err != nil {
		t.Fatal(err)
	}
	a := &app{store: dir, stderr: io.Discard, quiet: true}
	s := newService(a, m, slog.New(slog.DiscardHandler), serveOptions{}, metrics.New(), arcstore.RemoteOptions{Patience: patience})
	config, err := schedule.ParseConfig([]byte("schedules: [{name: gc, gc: {}, cron: '@yearly'}, {name: broken, snapshot: {files: {memory: /nowhere}}, cron: '@yearly', retry: {times: 0}}]"))
	if err != nil {
		t.Fatal(err)
	}
	s.runner.Apply(config)
	watched := &watchedAPI{t: t, next: m.Handler(&arcstore.ServeOptions{Remote: s.remote, Jobs: &s.jobs, Handlers: s.handlers()}), router: router, seen: make(map[string]bool)}
	l, err := m.Listen()
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: watched, BaseContext: func(net.Listener) context.Context { return context.Background() }}
	go server.Serve(l)
	t.Cleanup(func() {
		server.Close()
		s.runner.Close()
		m.Close()
	})
	return m, watched
}

// unseen returns the operations that nobody has done.
func (a *watchedAPI) unseen() (all []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, op := range apiOperations {
		if name := fmt.Sprintf("%s %s", op.method, op.path); !a.seen[name] {
			all = append(all, name)
		}
	}
	return all
}
