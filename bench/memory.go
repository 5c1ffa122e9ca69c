package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/arcboxlabs/arcstore"
)

// childArg makes this program do one thing and say how much memory that took.
const childArg = "measured-child"

// child runs one operation in a process of its own and prints its peak memory in KiB.
func child(args []string) {
	if err := runChild(args); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	status, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			fmt.Println(strings.Fields(rest)[0])
		}
	}
}

func runChild(args []string) error {
	ctx := context.Background()
	op, dir, file := args[0], args[1], args[2]
	m, err := arcstore.Open(ctx, dir, nil)
	if err != nil {
		return err
	}
	switch op {
	case "create":
		_, err = snapshot(ctx, m, "vm", file, nil)
	case "restore":
		_, err = m.Restore(ctx, "vm@latest", file, nil)
	case "gc":
		_, err = m.GC(ctx, nil)
	case "push", "restore from afar", "pull":
		err = childRemote(ctx, m, op, file)
	}
	if cerr := m.Close(); err == nil {
		err = cerr
	}
	return err
}

// peak runs an operation in a child and returns its peak resident memory in bytes.
func (b *bench) peak(op, dir, file string) (float64, error) {
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	cmd := exec.CommandContext(b.ctx, self, childArg, op, dir, file)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return 0, fmt.Errorf("%s: %w", op, err)
	}
	kib := 0.0
	if _, err := fmt.Sscan(string(out), &kib); err != nil {
		return 0, err
	}
	return kib * 1024, nil
}

// memory measures the peak memory of processes that create, restore and
// collect, for a guest and for one eight times its size: eight copies, each page changed a little.
func (b *bench) memory() error {
	large := filepath.Join(b.dir, "large")
	if err := enlarge(b.inputs[0], large, 8); err != nil {
		return err
	}
	defer os.Remove(large)
	worst, detail := 0.0, make(map[string]float64)
	for _, in := range []struct{ name, file string }{{"1", b.inputs[0]}, {"8", large}} {
		dir := filepath.Join(b.dir, "memory")
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
		if err := arcstore.Init(dir, nil); err != nil {
			return err
		}
		out := filepath.Join(b.dir, "out")
		for _, op := range []struct{ name, file string }{{"create", in.file}, {"create", in.file}, {"restore", out}, {"gc", out}} {
			n, err := b.peak(op.name, dir, op.file)
			if err != nil {
				return err
			}
			key := fmt.Sprintf("%s, %s x the guest (MiB)", op.name, in.name)
			detail[key] = max(detail[key], n/(1<<20))
			worst = max(worst, n/(1<<20))
		}
		if err := os.RemoveAll(out); err != nil {
			return err
		}
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	b.add(Result{Step: "memory", What: "peak memory of any process (MiB)", Value: worst, Bar: 300, AtMost: true, Detail: detail})
	return nil
}

// enlarge writes n copies of a memory file, sparse, the later ones changed
// in every page so that nothing is found again.
func enlarge(from, to string, n int) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	f, err := os.Create(to)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(int64(len(data)) * int64(n)); err != nil {
		return err
	}
	zero := make([]byte, 4096)
	for copyNo := range n {
		for at := 0; at+4096 <= len(data); at += 4096 {
			page := data[at : at+4096]
			if string(page) == string(zero) {
				continue
			}
			page[at/4096%4096] += byte(copyNo)
			page[0] ^= byte(copyNo)
			if _, err := f.WriteAt(page, int64(copyNo)*int64(len(data))+int64(at)); err != nil {
				return err
			}
		}
	}
	return nil
}
