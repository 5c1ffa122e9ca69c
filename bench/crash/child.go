package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/arcboxlabs/arcstore"
)

// childEnv holds the order of a child process.
const childEnv = "ARCSTORE_CRASH_ORDER"

// The operations.
const (
	opCreate   = "create"
	opDelete   = "delete"
	opPrune    = "prune"
	opGC       = "gc"
	opReindex  = "reindex"
	opCompress = "compression"
	opRestore  = "restore"
	opVerify   = "verify"
)

// restoredName is the folder, beside the store, that restores go to.
const restoredName = "restored"

// generationLabel is the label that says which of the model's memories a snapshot should hold.
const generationLabel = "generation"

// An order is what a child process does to the store until it is killed.
type order struct {
	Op         string
	Kind       string `json:",omitempty"` // of create
	Store      string
	Scratch    string
	Target     string   `json:",omitempty"`
	Parent     string   `json:",omitempty"`
	Memory     string   `json:",omitempty"` // file of a memory
	Generation string   `json:",omitempty"`
	Dirty      []byte   `json:",omitempty"`
	IDs        []string `json:",omitempty"`
	Keep       int      `json:",omitempty"`
	Codec      string   `json:",omitempty"`
}

// kind tells operations apart that take a different time.
func (o *order) kind() string {
	if o.Kind == "" {
		return o.Op
	}
	return o.Op + " " + o.Kind
}

// A child tells its parent, on stdout and a line each, what it is at
// ("phase P"), that it has stored a snapshot ("ready ID"), that the operation
// returned and so must last ("returned"), and that the store is closed ("done").
func runChild(text string, stdout io.Writer) error {
	var o order
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		return err
	}
	ctx := context.Background()
	last := ""
	phase := func(p string) {
		if p != last {
			last = p
			fmt.Fprintln(stdout, "phase", p)
		}
	}
	progress := func(p arcstore.Progress) {
		if p.Phase == "scan" && p.Done == p.Total {
			p.Phase = "commit"
		}
		phase(p.Phase)
	}
	phase("open")
	m, err := arcstore.Open(ctx, o.Store, nil)
	if err != nil {
		return err
	}
	phase(o.Op)
	switch o.Op {
	case opCreate:
		memory, err := loadMemory(o.Memory)
		if err != nil {
			return err
		}
		s, err := m.CreateVM(ctx, o.Target, &arcstore.VM{Memory: memory}, &arcstore.CreateOptions{
			Parent: o.Parent, Dirty: o.Dirty, Labels: map[string]string{generationLabel: o.Generation}, Progress: progress})
		if err != nil {
			return err
		}
		fmt.Fprintln(stdout, "ready", s.ID)
	case opDelete:
		_, err = m.Delete(ctx, o.IDs...)
	case opPrune:
		_, err = m.Prune(ctx, arcstore.Retention{KeepLast: o.Keep}, &arcstore.PruneOptions{Target: o.Target})
	case opGC:
		_, err = m.GC(ctx, &arcstore.GCOptions{Progress: progress})
	case opReindex:
		_, err = m.Reindex(ctx)
	case opCompress:
		err = m.SetCompression(ctx, o.Codec)
	case opRestore:
		_, err = m.Restore(ctx, o.IDs[0], filepath.Join(o.Scratch, restoredName), &arcstore.RestoreOptions{Force: true, Progress: progress})
	case opVerify:
		_, err = m.Verify(ctx, &arcstore.VerifyOptions{Data: true, Progress: progress})
	default:
		err = fmt.Errorf("no operation %q", o.Op)
	}
	if err == nil {
		fmt.Fprintln(stdout, "returned")
	}
	phase("close")
	if err := errors.Join(err, m.Close()); err != nil {
		return err
	}
	fmt.Fprintln(stdout, "done")
	return nil
}

// childMain runs the child process, if this is one.
func childMain() {
	text := os.Getenv(childEnv)
	if text == "" {
		return
	}
	if err := runChild(text, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "crash: child:", err)
		os.Exit(1)
	}
	os.Exit(0)
}
