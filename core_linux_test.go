package arcstore_test

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/arcboxlabs/arcstore"
	"github.com/arcboxlabs/arcstore/bench/guest"
	"github.com/arcboxlabs/arcstore/capture"
	"github.com/arcboxlabs/arcstore/capture/qmp"
)

// TestELFCore: a core that QEMU dumps of a paused guest has the guest's memory, shares its pages with a snapshot of the same guest in
// another form, and comes back as it was.
func TestELFCore(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	dir := t.TempDir()
	socket, memory, core := filepath.Join(dir, "qmp"), filepath.Join(dir, "memory"), filepath.Join(dir, "core")
	g := bootCounter(ctx, t, &guest.Options{MemoryPath: memory, MemoryBytes: guest.DefaultMemoryBytes, QMPSocket: socket})
	counts(ctx, t, g, 2)
	if err := g.Pause(ctx); err != nil {
		t.Fatal(err)
	}
	c, err := qmp.Dial(ctx, socket)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Run(ctx, "dump-guest-memory", map[string]any{"paging": false, "protocol": "file:" + core}, nil); err != nil {
		t.Fatal(err)
	}
	storeDir := filepath.Join(dir, "store")
	if err := arcstore.Init(storeDir, nil); err != nil {
		t.Fatal(err)
	}
	m, err := arcstore.Open(ctx, storeDir, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	plain, err := m.Create(ctx, &arcstore.CreateRequest{Target: "plain", Files: &arcstore.Files{Memory: memory}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	s, err := m.Create(ctx, &arcstore.CreateRequest{Target: "dumped", ELFCore: core}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("the memory took %d bytes, and the core %d more", plain.Cost.BytesNew, s.Cost.BytesNew)
	if s.Cost.BytesNew > plain.Cost.BytesNew/10 {
		t.Errorf("the core is %d bytes new, beside the same memory of %d", s.Cost.BytesNew, plain.Cost.BytesNew)
	}
	// Each region of RAM is what is at its address.
	r, err := m.OpenSnapshot(ctx, s.ID)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	machine, err := r.Machine(ctx)
	if err != nil || machine == nil || machine.Architecture != "amd64" {
		t.Fatalf("%+v, %v", machine, err)
	}
	stream, err := r.Stream("memory")
	if err != nil {
		t.Fatal(err)
	}
	ram, err := os.ReadFile(memory)
	if err != nil {
		t.Fatal(err)
	}
	compared := int64(0)
	for _, region := range machine.Regions {
		if region.GuestAddress+uint64(region.Size) > uint64(len(ram)) {
			continue // of a device
		}
		b := make([]byte, region.Size)
		if _, err := stream.ReadAt(b, region.Offset); err != nil && err != io.EOF {
			t.Fatal(err)
		}
		// Between 640 KiB and 1 MiB, the guest sees devices.
		at := int64(region.GuestAddress)
		for i := int64(0); i < region.Size; i += 4096 {
			if at+i >= 0xa0000 && at+i < 0x100000 {
				continue
			}
			if !bytes.Equal(b[i:i+4096], ram[at+i:at+i+4096]) {
				t.Fatalf("the page at %#x differs", at+i)
			}
			compared += 4096
		}
	}
	if compared < guest.DefaultMemoryBytes*9/10 {
		t.Errorf("only %d bytes of memory are in the core's regions: %+v", compared, machine.Regions)
	}
	out, err := os.Create(filepath.Join(dir, "again"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	report, err := m.ExportDump(ctx, s.ID, capture.KindELFCore, out, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := out.Truncate(report.Bytes); err != nil {
		t.Fatal(err)
	}
	a, err := os.ReadFile(core)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(out.Name())
	if err != nil || !bytes.Equal(a, b) {
		t.Errorf("the core of %d bytes comes back with %d, and others: %v", len(a), len(b), err)
	}
}
