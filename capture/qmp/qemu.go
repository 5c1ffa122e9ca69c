package qmp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

// object is a JSON object.
type object = map[string]any

// Running reports whether the guest's processors run, and what QEMU calls its state.
func (q *Client) Running(ctx context.Context) (running bool, status string, err error) {
	var s struct {
		Running bool   `json:"running"`
		Status  string `json:"status"`
	}
	err = q.Run(ctx, "query-status", nil, &s)
	return s.Running, s.Status, err
}

// Version returns QEMU's version, such as "7.2.22".
func (q *Client) Version(ctx context.Context) (string, error) {
	var v struct {
		QEMU struct{ Major, Minor, Micro int } `json:"qemu"`
	}
	err := q.Run(ctx, "query-version", nil, &v)
	return fmt.Sprintf("%d.%d.%d", v.QEMU.Major, v.QEMU.Minor, v.QEMU.Micro), err
}

// Stop stops the guest's processors, Continue lets them run.
func (q *Client) Stop(ctx context.Context) error { return q.Run(ctx, "stop", nil, nil) }

// Continue is the opposite of Stop.
func (q *Client) Continue(ctx context.Context) error { return q.Run(ctx, "cont", nil, nil) }

// Backend is where memory of the guest lies.
type Backend struct {
	ID     string `json:"id"`
	Size   int64  `json:"size"`  // bytes
	Shared bool   `json:"share"` // what the guest writes is in the file
	Path   string `json:"-"`     // of the file; "" where it is none
}

// Backends lists the guest's memory backends.
func (q *Client) Backends(ctx context.Context) ([]Backend, error) {
	var all []Backend
	if err := q.Run(ctx, "query-memdev", nil, &all); err != nil {
		return nil, err
	}
	for i := range all {
		err := q.Run(ctx, "qom-get", object{"path": "/objects/" + all[i].ID, "property": "mem-path"}, &all[i].Path)
		var refused *Error
		if err != nil && !errors.As(err, &refused) {
			return nil, err // one that lies in no file has no such property
		}
	}
	return all, nil
}

// ignoreShared is the capability that leaves memory in shared files out of a migration.
const ignoreShared = "x-ignore-shared"

// SaveState writes the state of a stopped guest, but for its shared memory, to w. QEMU does that once for each stop.
func (q *Client) SaveState(ctx context.Context, w io.Writer) error {
	var capabilities []struct {
		Capability string `json:"capability"`
		State      bool   `json:"state"`
	}
	if err := q.Run(ctx, "query-migrate-capabilities", nil, &capabilities); err != nil {
		return err
	}
	before := false
	for _, c := range capabilities {
		if c.Capability == ignoreShared {
			before = c.State
		}
	}
	set := func(state bool) error {
		return q.Run(ctx, "migrate-set-capabilities", object{"capabilities": []object{{"capability": ignoreShared, "state": state}}}, nil)
	}
	if err := set(true); err != nil {
		return err
	}
	err := q.migrate(ctx, w)
	if !before {
		err = errors.Join(err, set(false))
	}
	return err
}

// fdName is under which name QEMU is handed a pipe.
const fdName = "arcstore-state"

// migrate has QEMU write its state to w. The end of a pipe tells that it has written all: "completed" comes before that.
func (q *Client) migrate(ctx context.Context, w io.Writer) error {
	output, input, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("qmp: %w", err)
	}
	defer output.Close()
	copied := make(chan error, 1)
	go func() {
		_, err := io.Copy(w, output)
		if err != nil {
			io.Copy(io.Discard, output) // or QEMU would wait
		}
		copied <- err
	}()
	err = q.RunWithFile(ctx, "getfd", object{"fdname": fdName}, input, nil)
	input.Close()
	if err == nil {
		err = q.Run(ctx, "migrate", object{"uri": "fd:" + fdName}, nil)
	}
	if err == nil {
		err = q.awaitMigration(ctx)
	}
	if err != nil {
		return err
	}
	select {
	case err := <-copied:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (q *Client) awaitMigration(ctx context.Context) error {
	for {
		var m struct {
			Status string `json:"status"`
			Why    string `json:"error-desc"`
		}
		if err := q.Run(ctx, "query-migrate", nil, &m); err != nil {
			return err
		}
		switch m.Status {
		case "completed":
			return nil
		case "failed", "cancelled":
			return fmt.Errorf("qmp: QEMU could not write its state: migration %s: %s", m.Status, m.Why)
		}
		select {
		case <-time.After(2 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
