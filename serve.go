package arcstore

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/arcboxlabs/arcstore/store/control"
)

// ErrStopping: the process that holds the store is ending.
var ErrStopping = errors.New("the process that holds the store is ending")

// headerTimeout is how long who connects may take to say what for.
const headerTimeout = 30 * time.Second

// ServeOptions are the choices of Serve.
type ServeOptions struct {
	// Remote has the choices for remotes that are opened on request, but for the limits, which are the request's.
	Remote RemoteOptions
	// Jobs are told of the operations that run, and may have others; nil keeps them apart.
	Jobs *control.Jobs
	// Handlers answer what the store's own interface does not have, by the patterns of http.ServeMux.
	Handlers map[string]http.Handler
}

// Listen makes the store's control socket, at which other processes of the same user, and of root, find this one. Serve answers there.
func (m *Manager) Listen() (net.Listener, error) {
	if m.readOnly {
		return nil, ErrReadOnly
	}
	return control.Listen(m.dir)
}

// Serve answers at a listener, which it closes, until ctx ends: then it ends the operations that were asked for there, and returns once they
// have. The package cmd/client asks, and so does the command arcstore, which works the same beside a process that serves.
func (m *Manager) Serve(ctx context.Context, l net.Listener, opts *ServeOptions) error {
	working, stop := context.WithCancelCause(context.WithoutCancel(ctx))
	defer stop(nil)
	server := &http.Server{
		Handler:           m.Handler(opts),
		ReadHeaderTimeout: headerTimeout,
		BaseContext:       func(net.Listener) context.Context { return working },
	}
	ended := make(chan error, 1)
	go func() {
		<-ctx.Done()
		stop(ErrStopping)
		ended <- server.Shutdown(context.WithoutCancel(ctx))
	}()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("arcstore: serve: %w", err)
	}
	if err := <-ended; err != nil {
		return fmt.Errorf("arcstore: serve: %w", err)
	}
	return nil
}

// Handler returns what Serve answers with.
func (m *Manager) Handler(opts *ServeOptions) http.Handler {
	if opts == nil {
		opts = &ServeOptions{}
	}
	s := &server{m: m, remote: opts.Remote, jobs: opts.Jobs, mux: http.NewServeMux()}
	if s.jobs == nil {
		s.jobs = new(control.Jobs)
	}
	s.routes()
	for pattern, h := range opts.Handlers {
		s.mux.Handle(pattern, h)
	}
	s.mux.Handle("/", control.Handle(ErrorKinds, func(_ context.Context, r *http.Request, _ nothing, _ *Events) (nothing, error) {
		return nothing{}, fmt.Errorf("%w: nothing answers to %s %s", control.ErrNoSuch, r.Method, r.URL.Path)
	}))
	return s.mux
}

// server answers for a store.
type server struct {
	m      *Manager
	remote RemoteOptions
	jobs   *control.Jobs
	mux    *http.ServeMux
}

// nothing is a request without a body, or an answer without one.
type nothing = struct{}

// answer adds an operation that ends at once.
func answer[P, R any](s *server, pattern string, run func(ctx context.Context, r *http.Request, params P) (R, error)) {
	s.mux.Handle(pattern, control.Handle(ErrorKinds, func(ctx context.Context, r *http.Request, params P, _ *Events) (R, error) {
		return run(ctx, r, params)
	}))
}

// work adds an operation that takes its time, and is listed as a job meanwhile. subject says what it is about.
func work[P, R any](s *server, pattern, operation string, subject func(P) string, run func(ctx context.Context, params P, events *Events) (R, error)) {
	s.mux.Handle(pattern, control.Handle(ErrorKinds, func(ctx context.Context, _ *http.Request, params P, events *Events) (result R, err error) {
		job := control.Job{Operation: operation, Subject: subject(params)}
		err = s.jobs.Run(ctx, job, events, func(ctx context.Context, events *Events) (err error) {
			result, err = run(ctx, params, events)
			return err
		})
		return result, err
	}))
}

// open opens a remote that a request names.
func (s *server) open(ctx context.Context, name string, limits RemoteOptions, events *Events, use func(*Remote) error) error {
	opts := s.remote
	opts.UploadLimit, opts.DownloadLimit, opts.Warn = limits.UploadLimit, limits.DownloadLimit, events.Alarm
	r, err := s.m.OpenRemote(ctx, name, &opts)
	if err != nil {
		return err
	}
	return errors.Join(use(r), r.Close())
}

// info says what the store is.
func (s *server) info() *Info {
	c := s.m.store.Config()
	return &Info{StoreID: c.ID, FormatVersion: c.Format, ChunkSize: c.ChunkSize, Compression: c.Compression,
		Encrypted: c.Encryption != nil, PID: os.Getpid(), Holder: s.m.holder}
}
