// Package client asks the process that holds a store, which may be arcstore serve or any program that calls Manager.Serve, to work
// with it. The command arcstore does so when it finds the store's lock held.
//
// Start with [Dial]; the methods of a [Client] are those of an arcstore.Manager, and fail with the same errors.
package client

import (
	"context"
	"encoding/json"
	"errors"
	"net/url"
	"os"
	"path/filepath"

	"github.com/arcboxlabs/arcstore"
	"github.com/arcboxlabs/arcstore/capture"
	"github.com/arcboxlabs/arcstore/store/control"
)

// ErrNobody: no process answers for the store.
var ErrNobody = control.ErrNobody

// Job is an operation that runs in the process that holds the store.
type Job = control.Job

// Client asks one process. It is safe for concurrent use. An operation ends when its context does, and when the client's process dies.
type Client struct {
	caller *control.Caller
}

// Dial returns a client of the process that holds the store in dir: ErrNobody if none answers there. It must be closed.
func Dial(ctx context.Context, dir string) (*Client, error) {
	caller, err := control.Dial(ctx, dir, arcstore.ErrorKinds)
	if err != nil {
		return nil, err
	}
	return &Client{caller}, nil
}

// Close lets go of the connections.
func (c *Client) Close() error {
	c.caller.Close()
	return nil
}

// Call asks for anything that the process answers: see openapi.yaml, and control.Caller.Call for the arguments.
func (c *Client) Call(ctx context.Context, method, path string, params, result any, events *arcstore.Events) error {
	err := c.caller.Call(ctx, method, path, params, result, events)
	var e *control.Error
	if errors.As(err, &e) && e.Detail != nil {
		var d capture.ChoiceDetail
		if json.Unmarshal(e.Detail, &d) == nil && d.Choice != "" {
			return &capture.ChoiceError{Choice: d.Choice, Why: e.Message, Least: d.Least}
		}
	}
	return err
}

// call is Call for an operation whose result means nothing where it failed.
func call[R any](ctx context.Context, c *Client, method, path string, params any, events *arcstore.Events) (*R, error) {
	result := new(R)
	if err := c.Call(ctx, method, path, params, result, events); err != nil {
		return nil, err
	}
	return result, nil
}

// progress is Events with nothing but progress.
func progress(f func(arcstore.Progress)) *arcstore.Events {
	if f == nil {
		return nil
	}
	return &arcstore.Events{Progress: f}
}

// Info says what the store is, and who holds it.
func (c *Client) Info(ctx context.Context) (*arcstore.Info, error) {
	return call[arcstore.Info](ctx, c, "GET", "/v1/store", nil, nil)
}

// SetCompression is Manager.SetCompression.
func (c *Client) SetCompression(ctx context.Context, codec string) error {
	return c.Call(ctx, "PATCH", "/v1/store", arcstore.InfoChange{Compression: codec}, nil, nil)
}

// Create is Manager.Create. Files, guests and processes are those that the process which holds the store sees.
func (c *Client) Create(ctx context.Context, req *arcstore.CreateRequest, events *arcstore.Events) (*arcstore.Snapshot, error) {
	var s *arcstore.Snapshot
	err := c.Call(ctx, "POST", "/v1/snapshots", req, &s, events)
	return s, err
}

// List is Manager.List.
func (c *Client) List(ctx context.Context, target string) ([]*arcstore.Snapshot, error) {
	path := "/v1/snapshots"
	if target != "" {
		path += "?" + url.Values{"target": {target}}.Encode()
	}
	var list []*arcstore.Snapshot
	err := c.Call(ctx, "GET", path, nil, &list, nil)
	return list, err
}

// Get is Manager.Get.
func (c *Client) Get(ctx context.Context, ref string) (*arcstore.Snapshot, error) {
	return call[arcstore.Snapshot](ctx, c, "GET", "/v1/snapshots/"+url.PathEscape(ref), nil, nil)
}

// Delete is Manager.Delete.
func (c *Client) Delete(ctx context.Context, refs ...string) ([]*arcstore.Snapshot, error) {
	var deleted []*arcstore.Snapshot
	err := c.Call(ctx, "DELETE", "/v1/snapshots?"+url.Values{"snapshot": refs}.Encode(), nil, &deleted, nil)
	return deleted, err
}

// Diff is Manager.Diff.
func (c *Client) Diff(ctx context.Context, a, b string) (*arcstore.DiffReport, error) {
	return call[arcstore.DiffReport](ctx, c, "GET", "/v1/diff?"+url.Values{"a": {a}, "b": {b}}.Encode(), nil, nil)
}

// Stats is Manager.Stats.
func (c *Client) Stats(ctx context.Context) (*arcstore.Stats, error) {
	return call[arcstore.Stats](ctx, c, "GET", "/v1/stats", nil, nil)
}

// Restore is Manager.Restore. The files belong to the process that holds the store.
func (c *Client) Restore(ctx context.Context, ref, dir string, opts *arcstore.RestoreOptions) (*arcstore.RestoreReport, error) {
	if opts == nil {
		opts = &arcstore.RestoreOptions{}
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	return call[arcstore.RestoreReport](ctx, c, "POST", "/v1/restore", arcstore.RestoreRequest{RestoreOptions: *opts, Snapshot: ref, Output: dir}, progress(opts.Progress))
}

// Prune is Manager.Prune. Where keep has no time zone, it is that of this process.
func (c *Client) Prune(ctx context.Context, keep arcstore.Retention, opts *arcstore.PruneOptions) (*arcstore.PruneReport, error) {
	if opts == nil {
		opts = &arcstore.PruneOptions{}
	}
	zone := os.Getenv("TZ")
	if keep.Location != nil {
		zone = keep.Location.String()
	}
	return call[arcstore.PruneReport](ctx, c, "POST", "/v1/prune", arcstore.PruneRequest{PruneOptions: *opts, Keep: keep, TimeZone: zone}, nil)
}

// GC is Manager.GC.
func (c *Client) GC(ctx context.Context, opts *arcstore.GCOptions) (*arcstore.GCReport, error) {
	if opts == nil {
		opts = &arcstore.GCOptions{}
	}
	return call[arcstore.GCReport](ctx, c, "POST", "/v1/gc", opts, progress(opts.Progress))
}

// Verify is Manager.Verify.
func (c *Client) Verify(ctx context.Context, opts *arcstore.VerifyOptions) (*arcstore.VerifyReport, error) {
	if opts == nil {
		opts = &arcstore.VerifyOptions{}
	}
	return call[arcstore.VerifyReport](ctx, c, "POST", "/v1/verify", opts, progress(opts.Progress))
}

// RepairFrom is Manager.Repair from one of the store's remotes.
func (c *Client) RepairFrom(ctx context.Context, remote string, opts *arcstore.VerifyOptions, events *arcstore.Events) (*arcstore.RepairReport, error) {
	if opts == nil {
		opts = &arcstore.VerifyOptions{}
	}
	return call[arcstore.RepairReport](ctx, c, "POST", "/v1/repair", arcstore.RepairRequest{VerifyOptions: *opts, Remote: remote}, events)
}

// Reindex is Manager.Reindex.
func (c *Client) Reindex(ctx context.Context) (*arcstore.ReindexReport, error) {
	return call[arcstore.ReindexReport](ctx, c, "POST", "/v1/reindex", nil, nil)
}

// ImportArcbox is Manager.ImportArcbox.
func (c *Client) ImportArcbox(ctx context.Context, dir string, opts *arcstore.ImportOptions) (*arcstore.ImportReport, error) {
	if opts == nil {
		opts = &arcstore.ImportOptions{}
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	return call[arcstore.ImportReport](ctx, c, "POST", "/v1/import", arcstore.ImportRequest{ImportOptions: *opts, Directory: dir}, progress(opts.Progress))
}

// Remotes is Manager.Remotes.
func (c *Client) Remotes(ctx context.Context) ([]arcstore.RemoteConfig, error) {
	var list []arcstore.RemoteConfig
	err := c.Call(ctx, "GET", "/v1/remotes", nil, &list, nil)
	return list, err
}

// Push is Remote.Push to one of the store's remotes.
func (c *Client) Push(ctx context.Context, req arcstore.TransferRequest, events *arcstore.Events) (*arcstore.PushReport, error) {
	return call[arcstore.PushReport](ctx, c, "POST", "/v1/push", req, events)
}

// Pull is Manager.Pull from one of the store's remotes.
func (c *Client) Pull(ctx context.Context, req arcstore.TransferRequest, events *arcstore.Events) (*arcstore.PullReport, error) {
	return call[arcstore.PullReport](ctx, c, "POST", "/v1/pull", req, events)
}

// Keys is Manager.Keys. A secret that is added crosses the socket.
func (c *Client) Keys() arcstore.Keys { return keys{c} }

type keys struct{ c *Client }

// List implements arcstore.Keys.
func (k keys) List(ctx context.Context) ([]arcstore.KeySlot, error) {
	var slots []arcstore.KeySlot
	err := k.c.Call(ctx, "GET", "/v1/keys", nil, &slots, nil)
	return slots, err
}

// Add implements arcstore.Keys.
func (k keys) Add(ctx context.Context, secret arcstore.Secret, label string) (arcstore.KeySlot, error) {
	req := arcstore.KeyRequest{Label: label}
	req.Passphrase, req.KeyFile = secret.Disclose()
	var slot arcstore.KeySlot
	err := k.c.Call(ctx, "POST", "/v1/keys", req, &slot, nil)
	return slot, err
}

// Remove implements arcstore.Keys.
func (k keys) Remove(ctx context.Context, id string) (arcstore.KeySlot, error) {
	var slot arcstore.KeySlot
	err := k.c.Call(ctx, "DELETE", "/v1/keys/"+url.PathEscape(id), nil, &slot, nil)
	return slot, err
}

// Jobs lists the operations that run in the process.
func (c *Client) Jobs(ctx context.Context) ([]Job, error) {
	var jobs []Job
	err := c.Call(ctx, "GET", "/v1/jobs", nil, &jobs, nil)
	return jobs, err
}

// Cancel cancels a job.
func (c *Client) Cancel(ctx context.Context, id string) error {
	return c.Call(ctx, "DELETE", "/v1/jobs/"+url.PathEscape(id), nil, nil, nil)
}
