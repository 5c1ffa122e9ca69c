package main

import (
	"context"
	"errors"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/arcboxlabs/arcstore"
	"github.com/arcboxlabs/arcstore/cmd/client"
)

// holder is a store with its lock, to change it: this process's, or that of another process which answers for it.
type holder interface {
	Create(ctx context.Context, req *arcstore.CreateRequest, events *arcstore.Events) (*arcstore.Snapshot, error)
	List(ctx context.Context, target string) ([]*arcstore.Snapshot, error)
	Delete(ctx context.Context, refs ...string) ([]*arcstore.Snapshot, error)
	Prune(ctx context.Context, keep arcstore.Retention, opts *arcstore.PruneOptions) (*arcstore.PruneReport, error)
	GC(ctx context.Context, opts *arcstore.GCOptions) (*arcstore.GCReport, error)
	RepairFrom(ctx context.Context, remote string, opts *arcstore.VerifyOptions, events *arcstore.Events) (*arcstore.RepairReport, error)
	Reindex(ctx context.Context) (*arcstore.ReindexReport, error)
	SetCompression(ctx context.Context, codec string) error
	ImportArcbox(ctx context.Context, dir string, opts *arcstore.ImportOptions) (*arcstore.ImportReport, error)
	Pull(ctx context.Context, req arcstore.TransferRequest, events *arcstore.Events) (*arcstore.PullReport, error)
	Keys() arcstore.Keys
}

// direct is the store that this process holds.
type direct struct {
	*arcstore.Manager
	app *app
}

// Pull implements holder.
func (d direct) Pull(ctx context.Context, req arcstore.TransferRequest, events *arcstore.Events) (report *arcstore.PullReport, err error) {
	err = d.app.openRemote(ctx, d.Manager, req.Remote, &arcstore.RemoteOptions{DownloadLimit: req.Limit}, func(r *arcstore.Remote) (err error) {
		report, err = d.Manager.Pull(ctx, r, req.Snapshots, &arcstore.PullOptions{Progress: events.Report})
		return err
	})
	return report, err
}

// RepairFrom implements holder.
func (d direct) RepairFrom(ctx context.Context, remote string, opts *arcstore.VerifyOptions, _ *arcstore.Events) (report *arcstore.RepairReport, err error) {
	err = d.app.openRemote(ctx, d.Manager, remote, nil, func(r *arcstore.Remote) (err error) {
		report, err = d.Repair(ctx, r, opts)
		return err
	})
	return report, err
}

var (
	_ holder = direct{}
	_ holder = (*client.Client)(nil)
)

// write uses the store with its lock, or through the process that has it and answers; cmd is what others are told of us.
func (a *app) write(cmd *cobra.Command, use func(holder) error) error {
	ctx := cmd.Context()
	err := a.open(ctx, &arcstore.Options{Holder: cmd.CommandPath(), Guard: guardGuest}, func(m *arcstore.Manager) error { return use(direct{m, a}) })
	var elsewhere *heldElsewhere
	if !errors.As(err, &elsewhere) {
		return err
	}
	defer elsewhere.client.Close()
	return use(elsewhere.client)
}

// heldElsewhere is the error for a store whose holder answers.
type heldElsewhere struct {
	error  // ErrInUse
	client *client.Client
}

func (e *heldElsewhere) Unwrap() error { return e.error }

// events tells a person what happens.
func (a *app) events(p *progress) *arcstore.Events {
	return &arcstore.Events{Progress: p.report(), Note: func(text string) { a.note("%s", text) }, Warn: a.warn}
}

// fullPath names a file so that another process finds it, too.
func fullPath(name string) (string, error) {
	if name == "" {
		return "", nil
	}
	full, err := filepath.Abs(name)
	if err == nil && (strings.HasPrefix(full, "/dev/") || strings.HasPrefix(full, "/proc/self/")) {
		// /dev/stdin is another file there.
		full, err = filepath.EvalSymlinks(full)
	}
	return full, err
}
