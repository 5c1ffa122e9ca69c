package arcstore

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	"github.com/arcboxlabs/arcstore/store/control"
	"github.com/arcboxlabs/arcstore/store/crypt"
)

// routes adds all that the store's own interface has. It is described in cmd/client/openapi.yaml.
func (s *server) routes() {
	s.routesOfStore()
	s.routesOfSnapshots()
	s.routesOfUpkeep()
	s.routesOfRemotes()
	s.routesOfKeys()
}

func (s *server) routesOfStore() {
	answer(s, "GET /v1/store", func(context.Context, *http.Request, nothing) (*Info, error) { return s.info(), nil })
	answer(s, "PATCH /v1/store", func(ctx context.Context, _ *http.Request, p InfoChange) (*Info, error) {
		if err := s.m.SetCompression(ctx, p.Compression); err != nil {
			return nil, err
		}
		return s.info(), nil
	})
	answer(s, "GET /v1/stats", func(ctx context.Context, _ *http.Request, _ nothing) (*Stats, error) { return s.m.Stats(ctx) })
	answer(s, "GET /v1/jobs", func(context.Context, *http.Request, nothing) ([]control.Job, error) { return s.jobs.List(), nil })
	answer(s, "DELETE /v1/jobs/{id}", func(_ context.Context, r *http.Request, _ nothing) (nothing, error) {
		return nothing{}, s.jobs.Cancel(r.PathValue("id"))
	})
}

func (s *server) routesOfSnapshots() {
	answer(s, "GET /v1/snapshots", func(ctx context.Context, r *http.Request, _ nothing) ([]*Snapshot, error) {
		list, err := s.m.List(ctx, r.URL.Query().Get("target"))
		return append([]*Snapshot{}, list...), err
	})
	answer(s, "GET /v1/snapshots/{ref...}", func(ctx context.Context, r *http.Request, _ nothing) (*Snapshot, error) {
		return s.m.Get(ctx, r.PathValue("ref"))
	})
	answer(s, "DELETE /v1/snapshots", func(ctx context.Context, r *http.Request, _ nothing) ([]*Snapshot, error) {
		refs := r.URL.Query()["snapshot"]
		if len(refs) == 0 {
			return nil, fmt.Errorf("arcstore: %w: no snapshot is named", ErrInvalid)
		}
		return s.m.Delete(ctx, refs...)
	})
	answer(s, "GET /v1/diff", func(ctx context.Context, r *http.Request, _ nothing) (*DiffReport, error) {
		q := r.URL.Query()
		return s.m.Diff(ctx, q.Get("a"), q.Get("b"))
	})
	work(s, "POST /v1/snapshots", "create", func(p *CreateRequest) string { return p.target() }, func(ctx context.Context, p *CreateRequest, events *Events) (*Snapshot, error) {
		if p == nil {
			return nil, fmt.Errorf("%w: it has no body", control.ErrRequest)
		}
		return s.m.Create(ctx, p, events)
	})
	work(s, "POST /v1/restore", "restore", func(p RestoreRequest) string { return p.Snapshot }, func(ctx context.Context, p RestoreRequest, events *Events) (*RestoreReport, error) {
		if err := absolute(p.Output); err != nil {
			return nil, err
		}
		p.Progress = events.Report
		return s.m.Restore(ctx, p.Snapshot, p.Output, &p.RestoreOptions)
	})
	work(s, "POST /v1/import", "import", func(p ImportRequest) string { return p.Directory }, func(ctx context.Context, p ImportRequest, events *Events) (*ImportReport, error) {
		if err := absolute(p.Directory); err != nil {
			return nil, err
		}
		p.Progress = events.Report
		return s.m.ImportArcbox(ctx, p.Directory, &p.ImportOptions)
	})
}

func (s *server) routesOfUpkeep() {
	work(s, "POST /v1/prune", "prune", func(p PruneRequest) string { return p.Target }, func(ctx context.Context, p PruneRequest, _ *Events) (*PruneReport, error) {
		if p.TimeZone != "" {
			zone, err := time.LoadLocation(p.TimeZone)
			if err != nil {
				return nil, fmt.Errorf("arcstore: %w: %w", ErrInvalid, err)
			}
			p.Keep.Location = zone
		}
		return s.m.Prune(ctx, p.Keep, &p.PruneOptions)
	})
	work(s, "POST /v1/gc", "gc", about[GCOptions], func(ctx context.Context, p GCOptions, events *Events) (*GCReport, error) {
		p.Progress = events.Report
		return s.m.GC(ctx, &p)
	})
	work(s, "POST /v1/verify", "verify", func(p VerifyOptions) string { return strings.Join(p.Snapshots, " ") }, func(ctx context.Context, p VerifyOptions, events *Events) (*VerifyReport, error) {
		p.Progress = events.Report
		return s.m.Verify(ctx, &p)
	})
	work(s, "POST /v1/repair", "repair", func(p RepairRequest) string { return p.Remote }, func(ctx context.Context, p RepairRequest, events *Events) (report *RepairReport, err error) {
		p.Progress = events.Report
		err = s.open(ctx, p.Remote, RemoteOptions{}, events, func(r *Remote) (err error) {
			report, err = s.m.Repair(ctx, r, &p.VerifyOptions)
			return err
		})
		return report, err
	})
	work(s, "POST /v1/reindex", "reindex", about[nothing], func(ctx context.Context, _ nothing, _ *Events) (*ReindexReport, error) { return s.m.Reindex(ctx) })
}

func (s *server) routesOfRemotes() {
	answer(s, "GET /v1/remotes", func(context.Context, *http.Request, nothing) ([]RemoteConfig, error) {
		list, err := s.m.Remotes()
		return append([]RemoteConfig{}, list...), err
	})
	work(s, "POST /v1/push", "push", func(p TransferRequest) string { return p.Remote }, func(ctx context.Context, p TransferRequest, events *Events) (report *PushReport, err error) {
		err = s.open(ctx, p.Remote, RemoteOptions{UploadLimit: p.Limit}, events, func(r *Remote) (err error) {
			report, err = r.Push(ctx, s.m, p.Snapshots, &PushOptions{Progress: events.Report})
			return err
		})
		return report, err
	})
	work(s, "POST /v1/pull", "pull", func(p TransferRequest) string { return p.Remote }, func(ctx context.Context, p TransferRequest, events *Events) (report *PullReport, err error) {
		err = s.open(ctx, p.Remote, RemoteOptions{DownloadLimit: p.Limit}, events, func(r *Remote) (err error) {
			report, err = s.m.Pull(ctx, r, p.Snapshots, &PullOptions{Progress: events.Report})
			return err
		})
		return report, err
	})
}

func (s *server) routesOfKeys() {
	answer(s, "GET /v1/keys", func(ctx context.Context, _ *http.Request, _ nothing) ([]KeySlot, error) { return s.m.Keys().List(ctx) })
	answer(s, "POST /v1/keys", func(ctx context.Context, _ *http.Request, p KeyRequest) (*KeySlot, error) {
		secret, err := p.secret()
		if err != nil {
			return nil, err
		}
		slot, err := s.m.Keys().Add(ctx, secret, p.Label)
		return &slot, err
	})
	answer(s, "DELETE /v1/keys/{id}", func(ctx context.Context, r *http.Request, _ nothing) (*KeySlot, error) {
		slot, err := s.m.Keys().Remove(ctx, r.PathValue("id"))
		return &slot, err
	})
}

// about is for operations that are about the whole store.
func about[P any](P) string { return "" }

func (req *CreateRequest) target() string {
	if req == nil {
		return ""
	}
	return req.Target
}

// secret returns the secret that a request has.
func (p *KeyRequest) secret() (Secret, error) {
	if (p.Passphrase == "") == (p.KeyFile == "") {
		return Secret{}, fmt.Errorf("arcstore: %w: give a passphrase or a key file", ErrInvalid)
	}
	if p.Passphrase != "" {
		return Passphrase(p.Passphrase), nil
	}
	return crypt.ParseKeyFile(p.KeyFile)
}

// absolute refuses a path that two processes may understand differently.
func absolute(path string) error {
	if !filepath.IsAbs(path) {
		return fmt.Errorf("arcstore: %w: the path %q is not absolute", ErrInvalid, path)
	}
	return nil
}
