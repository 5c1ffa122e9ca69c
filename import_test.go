package arcstore

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/pierrec/lz4/v4"

	"github.com/arcboxlabs/arcstore/capture"
	"github.com/arcboxlabs/arcstore/capture/arcbox"
	"github.com/arcboxlabs/arcstore/manifest"
)

// predecessor writes a snapshot's directory as the predecessor would.
type predecessor struct {
	t   *testing.T
	dir string
}

func (p predecessor) write(id, name string, v any) {
	p.t.Helper()
	b, ok := v.([]byte)
	if !ok {
		var err error
		if b, err = json.MarshalIndent(v, "", "  "); err != nil {
			p.t.Fatal(err)
		}
	}
	path := filepath.Join(p.dir, id, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		p.t.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		p.t.Fatal(err)
	}
}

func (p predecessor) info(id, parent, state string, day int) {
	info := map[string]any{"id": id, "name": "snapshot-" + id[:8], "target_id": "vm-1", "target_type": "Vm", "size": 1, "parent": nil,
		"created": fmt.Sprintf("2026-03-%02dT04:05:06.123456789Z", day), "description": "of day " + fmt.Sprint(day), "labels": map[string]string{"tier": "gold"}, "state": state}
	if parent != "" {
		info["parent"] = parent
	}
	p.write(id, arcbox.InfoFile, info)
}

func (p predecessor) vm(id, parent string, day int, memory []byte, compress bool) {
	p.info(id, parent, "Ready", day)
	state := map[string]any{"version": 1, "arch": "Aarch64", "total_memory": len(memory), "compressed": compress, "compression": nil, "parent_id": nil,
		"vcpus":          []any{map[string]any{"id": 0, "arch": "Aarch64", "x86_regs": nil, "arm64_regs": map[string]any{"pc": 4096, "x": []int{1, 2}}, "extra_state": []int{1, 2, 3}}},
		"devices":        []any{map[string]any{"device_type": "Block", "name": "vda", "state": []int{9, 8}}},
		"memory_regions": []any{map[string]any{"guest_addr": 1 << 30, "size": len(memory), "read_only": false, "file_offset": 0}}}
	if compress {
		state["compression"] = "lz4"
		block := make([]byte, lz4.CompressBlockBound(len(memory)))
		n, err := lz4.CompressBlock(memory, block, nil)
		if err != nil {
			p.t.Fatal(err)
		}
		p.write(id, arcbox.CompressedFile, append(binary.LittleEndian.AppendUint32(nil, uint32(len(memory))), block[:n]...))
	} else {
		p.write(id, arcbox.MemoryFile, memory)
	}
	p.write(id, arcbox.StateFile, state)
}

func id32(n int) string { return fmt.Sprintf("%032x", n) }

// A tree of the predecessor's comes over with all that it says, and goes back.
func TestImportArcbox(t *testing.T) {
	ctx := context.Background()
	p := predecessor{t, t.TempDir()}
	memory := make([]byte, 2<<20)
	rng := rand.NewChaCha8([32]byte{3})
	rng.Read(memory[4096 : 512<<10])
	changed := bytes.Clone(memory)
	rng.Read(changed[8192:12288])
	p.vm(id32(1), "", 1, memory, false)
	p.vm(id32(2), id32(1), 2, changed, true)
	p.info(id32(3), "", "Creating", 3)
	p.info(id32(4), "", "Invalid", 4)
	p.info(id32(5), id32(2), "Ready", 5)
	p.write(id32(5), arcbox.StateFile, map[string]any{"target_id": "vm-1", "captured_at": "2026-03-05T00:00:00Z", "paused": true, "vcpu_count": 0, "memory_size": 0, "devices": []any{}})
	p.write(id32(5), arcbox.MemoryFile, []byte{})
	p.vm(id32(6), "", 6, memory, true)
	p.write(id32(6), arcbox.CompressedFile, []byte("no block of LZ4"))
	p.vm(id32(7), "", 7, memory, false)
	p.write(id32(7), arcbox.MemoryFile, memory[:4096])
	p.write("not hexadecimal", arcbox.InfoFile, []byte("{"))
	p.write("no snapshot", "readme", []byte("hello"))

	m := newManager(t, nil)
	report, err := m.ImportArcbox(ctx, p.dir, &ImportOptions{DryRun: true})
	if list, _ := m.List(ctx, ""); err != nil || len(list) != 0 || len(report.Imported) != 3 {
		t.Errorf("dry run: %+v, %v, and %d snapshots", report, err, len(list))
	}
	report, err = m.ImportArcbox(ctx, p.dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(report.Imported, []string{id32(1), id32(2)}) {
		t.Errorf("imported %v", report.Imported)
	}
	reasons := make(map[SkipReason]int)
	for _, s := range report.Skipped {
		reasons[s.Reason]++
	}
	if reasons[SkipUnfinished] != 1 || reasons[SkipInvalid] != 1 || reasons[SkipPlaceholder] != 1 || reasons[SkipFailed] != 3 {
		t.Errorf("skipped %+v", report.Skipped)
	}
	e, err := m.Get(ctx, id32(2))
	if err != nil {
		t.Fatal(err)
	}
	want := time.Date(2026, 3, 2, 4, 5, 6, 123456789, time.UTC)
	if e.Parent != id32(1) || !e.Created.Equal(want) || e.TargetID != "vm-1" || e.Name != "snapshot-00000000" || e.Description != "of day 2" || e.Labels["tier"] != "gold" || e.State != manifest.Ready {
		t.Errorf("it has become %+v", e)
	}
	if e.Cost.ChunksNew > 10 {
		t.Errorf("%d chunks are new, of an increment of one page and its state", e.Cost.ChunksNew)
	}
	r, err := m.OpenSnapshot(ctx, id32(2))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	machine, err := r.Machine(ctx)
	if err != nil || machine.Architecture != "arm64" || machine.Regions[0].GuestAddress != 1<<30 || machine.VCPUs[0].Registers["pc"] != 4096 || machine.Devices[0].Name != "vda" {
		t.Errorf("machine %+v, %v", machine, err)
	}
	again, err := m.ImportArcbox(ctx, p.dir, nil)
	if err != nil || len(again.Imported) != 0 || len(again.Present) != 2 {
		t.Errorf("again: %+v, %v", again, err)
	}

	// And back: another store takes it as it took the first.
	out := predecessor{t, t.TempDir()}
	for _, id := range []string{id32(1), id32(2)} {
		if got, err := m.ExportArcbox(ctx, id, out.dir, nil); err != nil || got.Foreign {
			t.Fatalf("export: %+v, %v", got, err)
		}
	}
	if _, err := m.ExportArcbox(ctx, id32(1), out.dir, nil); !errors.Is(err, ErrExists) {
		t.Errorf("export over what is there: %v", err)
	}
	if b, err := os.ReadFile(filepath.Join(out.dir, id32(2), arcbox.MemoryFile)); err != nil || !bytes.Equal(b, changed) {
		t.Errorf("another memory came out: %v", err)
	}
	other := newManager(t, nil)
	if report, err := other.ImportArcbox(ctx, out.dir, nil); err != nil || len(report.Imported) != 2 || len(report.Skipped) != 0 {
		t.Errorf("imported again: %+v, %v", report, err)
	}
	for _, name := range []string{manifest.MemoryStream, "machine.json"} {
		var a, b bytes.Buffer
		_, aerr := m.RestoreStream(ctx, id32(2), name, &a, nil)
		_, berr := other.RestoreStream(ctx, id32(2), name, &b, nil)
		if aerr != nil || berr != nil || !bytes.Equal(a.Bytes(), b.Bytes()) {
			t.Errorf("%s is another after the way there and back: %v, %v", name, aerr, berr)
		}
	}
	own := create(t, m, "mine", &VM{Memory: capture.Bytes(memory), State: map[string]Source{"vmstate": capture.Bytes([]byte("opaque"))}}, nil)
	if got, err := m.ExportArcbox(ctx, own.ID, out.dir, nil); err != nil || !got.Foreign {
		t.Errorf("export of a snapshot of our own: %+v, %v", got, err)
	}
	if _, _, err := arcbox.ReadState(filepath.Join(out.dir, own.ID)); err != nil {
		t.Error(err)
	}
	if _, err := m.ImportArcbox(ctx, t.TempDir(), nil); !errors.Is(err, ErrInvalid) {
		t.Errorf("a directory without snapshots: %v", err)
	}
}
