package arcstore_test

import (
	"context"
	"errors"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/arcboxlabs/arcstore"
	"github.com/arcboxlabs/arcstore/capture"
	"github.com/arcboxlabs/arcstore/manifest"
)

// TestCheck: what a snapshot was taken on is kept, and compared with what there is, each difference with its weight.
func TestCheck(t *testing.T) {
	ctx := context.Background()
	dir := filepath.Join(t.TempDir(), "store")
	if err := arcstore.Init(dir, nil); err != nil {
		t.Fatal(err)
	}
	m, err := arcstore.Open(ctx, dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	vm, err := m.CreateVM(ctx, "vm", &arcstore.VM{Memory: capture.Bytes(make([]byte, 8192)), VMM: "qemu", VMMVersion: "7.2.22"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	here := capture.ThisHost()
	if h := vm.Host; h == nil || h.Architecture != runtime.GOARCH || h.PageSize != here.PageSize || h.Flags != here.Flags || h.VMM != "qemu" || h.VMMVersion != "7.2.22" {
		t.Fatalf("taken on %+v", h)
	}
	catalogue := manifest.OpenCatalogue(filepath.Join(dir, "snapshots"), nil)
	check := func(kind manifest.TargetType, change func(*arcstore.Host), opts *arcstore.CheckOptions) *arcstore.Compatibility {
		t.Helper()
		e := *vm
		e.TargetType = kind
		h := *vm.Host
		if e.Host = &h; change != nil {
			change(e.Host)
		} else {
			e.Host = nil
		}
		if err := catalogue.Put(ctx, &e, true); err != nil {
			t.Fatal(err)
		}
		c, err := m.Check(ctx, vm.ID, opts)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	qemu := func(version string) *arcstore.CheckOptions {
		return &arcstore.CheckOptions{VMM: "qemu", VMMVersion: version}
	}
	for _, test := range []struct {
		name   string
		kind   manifest.TargetType
		change func(*arcstore.Host)
		opts   *arcstore.CheckOptions
		want   string // problems, the fatal ones in capitals
	}{
		{"nothing is known", manifest.Container, nil, nil, ""},
		{"the same", manifest.Container, func(*arcstore.Host) {}, nil, ""},
		{"a guest", manifest.VM, func(*arcstore.Host) {}, qemu("7.2.1"), ""},
		{"newer", manifest.VM, func(*arcstore.Host) {}, qemu("10.0"), ""},
		{"older", manifest.VM, func(*arcstore.Host) {}, qemu("7.1.9"), "VMM"},
		{"another", manifest.VM, func(*arcstore.Host) {}, &arcstore.CheckOptions{VMM: "firecracker"}, "VMM"},
		{"architecture", manifest.VM, func(h *arcstore.Host) { h.Architecture = "sparc" }, nil, "ARCHITECTURE"},
		{"cpu of a guest", manifest.VM, func(h *arcstore.Host) { h.Flags += " avx1024" }, nil, "cpu"},
		{"cpu", manifest.Container, func(h *arcstore.Host) { h.Flags += " avx1024" }, nil, "CPU"},
		{"a mitigation", manifest.Container, func(h *arcstore.Host) { h.Flags += " retpoline_of_tomorrow" }, nil, ""},
		{"page size", manifest.Container, func(h *arcstore.Host) { h.PageSize *= 4 }, nil, "PAGE SIZE"},
		{"kernel", manifest.Container, func(h *arcstore.Host) { h.Kernel = "99.1-generic" }, nil, "kernel"},
		{"older kernel", manifest.Container, func(h *arcstore.Host) { h.Kernel = "3.10" }, nil, ""},
	} {
		c := check(test.kind, test.change, test.opts)
		var got []string
		for _, p := range c.Problems {
			if p.Fatal {
				p.What = strings.ToUpper(p.What)
			}
			got = append(got, p.What)
		}
		if strings.Join(got, ",") != test.want {
			t.Errorf("%s: %+v, want %q", test.name, c.Problems, test.want)
		}
		if err := c.Fatal(); errors.Is(err, arcstore.ErrIncompatible) != slices.ContainsFunc(c.Problems, func(p arcstore.Problem) bool { return p.Fatal }) {
			t.Errorf("%s: %v", test.name, err)
		}
	}
}
