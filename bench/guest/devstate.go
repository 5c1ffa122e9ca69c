package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

// stateFile is the name under which QEMU is handed the pipe that a device state goes through.
const stateFile = "devstate"

// SaveDeviceState writes the state of the paused guest other than its RAM (CPU, devices: about 0.3 MB) to the file path,
// which is made or emptied. With the RAM of the same moment it is a guest that [Options.Incoming] brings back. The guest
// stays paused, and QEMU saves it only once a pause. On a running guest it fails with
// [ErrRunning], and on one with private memory it always fails.
func (g *Guest) SaveDeviceState(ctx context.Context, path string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	err := ErrRunning
	if g.paused {
		err = g.saveDeviceState(ctx, path)
	}
	if err != nil {
		return fmt.Errorf("guest: save device state: %w", g.explain(err))
	}
	return nil
}

func (g *Guest) saveDeviceState(ctx context.Context, path string) error {
	if g.opts.PrivateMemory {
		return errPrivateMemory
	}
	target, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer target.Close()
	// A pipe, because its end tells that QEMU has written all: the migration's "completed" comes before that.
	output, input, err := os.Pipe()
	if err != nil {
		return err
	}
	defer output.Close()
	copied := make(chan error, 1)
	go func() {
		_, err := io.Copy(target, output)
		copied <- err
	}()
	err = g.migrate(ctx, "migrate", input)
	input.Close()
	if err != nil {
		return err
	}
	select {
	case err = <-copied:
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		return err
	}
	return target.Close()
}

// loadDeviceState makes the waiting QEMU the guest whose state is in the file path.
func (g *Guest) loadDeviceState(ctx context.Context, path string) error {
	source, err := os.Open(path)
	if err != nil {
		return err
	}
	defer source.Close()
	output, input, err := os.Pipe()
	if err != nil {
		return err
	}
	defer output.Close()
	go func() {
		// Where this fails QEMU gets a state that ends early, and says so.
		_, _ = io.Copy(input, source)
		input.Close()
	}()
	return g.migrate(ctx, "migrate-incoming", output)
}

// migrate has QEMU send its state to a pipe, or receive it from one, and waits until it is done. The RAM is not part of
// that: it is shared with a file ("x-ignore-shared").
func (g *Guest) migrate(ctx context.Context, command string, pipe *os.File) error {
	type object = map[string]any
	if err := g.qmp.Run(ctx, "migrate-set-capabilities", object{
		"capabilities": []object{{"capability": "x-ignore-shared", "state": true}},
	}, nil); err != nil {
		return err
	}
	if err := g.qmp.RunWithFile(ctx, "getfd", object{"fdname": stateFile}, pipe, nil); err != nil {
		return err
	}
	if err := g.qmp.Run(ctx, command, object{"uri": "fd:" + stateFile}, nil); err != nil {
		return err
	}
	for {
		var progress struct {
			Status      string `json:"status"`
			Description string `json:"error-desc"`
		}
		if err := g.qmp.Run(ctx, "query-migrate", nil, &progress); err != nil {
			return err
		}
		switch progress.Status {
		case "completed":
			return nil
		case "failed", "cancelled":
			return errors.New("qemu: migration " + progress.Status + ": " + progress.Description)
		}
		if err := sleep(ctx, 5*time.Millisecond); err != nil {
			return err
		}
	}
}
