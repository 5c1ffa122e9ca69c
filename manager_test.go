package arcstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/arcboxlabs/arcstore/capture"
)

func newManager(t testing.TB, opts *InitOptions) *Manager {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "store")
	if err := Init(dir, opts); err != nil {
		t.Fatal(err)
	}
	return openManager(t, dir)
}

// testSecret opens the encrypted stores of tests: a key file's secret, which costs no time.
var testSecret = sync.OnceValue(func() Secret {
	dir, err := os.MkdirTemp("", "arcstore-key")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	s, err := NewKeyFile(filepath.Join(dir, "key"))
	if err != nil {
		panic(err)
	}
	return s
})

func knownSecret() (Secret, error) { return testSecret(), nil }

func openManager(t testing.TB, dir string) *Manager {
	t.Helper()
	m, err := Open(context.Background(), dir, &Options{Secret: knownSecret})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

// ram is a guest's memory that tests write to.
type ram struct {
	r    *rand.Rand
	data []byte
}

// newRAM makes a memory of which about a quarter is not zero.
func newRAM(seed uint64, size int) *ram {
	m := &ram{r: rand.New(rand.NewPCG(seed, 7)), data: make([]byte, size)}
	for i := 0; i < size/4096/4; i++ {
		m.fill(m.r.IntN(size / 4096))
	}
	return m
}

// fill writes text of its own to a page.
func (m *ram) fill(page int) {
	p := m.data[page*4096 : min((page+1)*4096, len(m.data))]
	b := p[:0]
	for len(b) < len(p)-40 {
		b = fmt.Appendf(b, "%x-%d;", m.r.Uint64(), m.r.IntN(100))
	}
}

// touch changes n pages, some of them to zero, and returns the dirty bitmap.
func (m *ram) touch(n int) []byte {
	pages := (len(m.data) + 4095) / 4096
	dirty := make([]byte, (pages+7)/8)
	for range n {
		page := m.r.IntN(pages)
		if m.r.IntN(5) == 0 {
			clear(m.data[page*4096 : min((page+1)*4096, len(m.data))])
		} else {
			m.fill(page)
		}
		dirty[page/8] |= 1 << (page % 8)
	}
	return dirty
}

func (m *ram) vm() *VM {
	return &VM{Memory: capture.Bytes(bytes.Clone(m.data)), State: map[string]Source{"vmstate": capture.Bytes([]byte("registers and such"))}}
}

func create(t testing.TB, m *Manager, target string, vm *VM, opts *CreateOptions) *Snapshot {
	t.Helper()
	s, err := m.CreateVM(context.Background(), target, vm, opts)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// checkRestored restores a snapshot and compares its memory.
func checkRestored(t testing.TB, m *Manager, ref string, want []byte) {
	t.Helper()
	ctx := context.Background()
	dir := filepath.Join(t.TempDir(), "out")
	if _, err := m.Restore(ctx, ref, dir, nil); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(dir, "memory"))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Fatalf("snapshot %s came back different", ref)
	}
	if state, err := os.ReadFile(filepath.Join(dir, "vmstate")); err != nil || string(state) != "registers and such" {
		t.Fatalf("vmstate: %q, %v", state, err)
	}
	var out bytes.Buffer
	if _, err := m.RestoreStream(ctx, ref, "memory", &out, nil); err != nil || !bytes.Equal(out.Bytes(), want) {
		t.Fatalf("the stream came back different: %v", err)
	}
}

func TestEndToEnd(t *testing.T) {
	ctx := context.Background()
	for _, o := range []InitOptions{{}, {Compression: "zstd"}, {ChunkSize: 64 << 10}} {
		t.Run(fmt.Sprintf("%s-%d", o.Compression, o.ChunkSize), func(t *testing.T) {
			m := newManager(t, &o)
			ram := newRAM(1, 24<<20+777)
			first := create(t, m, "vm1", ram.vm(), &CreateOptions{Name: "first", Labels: map[string]string{"k": "v"}})
			want1 := bytes.Clone(ram.data)
			dirty := ram.touch(300)
			second := create(t, m, "vm1", ram.vm(), &CreateOptions{Parent: first.ID, Dirty: dirty})
			want2 := bytes.Clone(ram.data)
			ram.touch(300)
			third := create(t, m, "vm1", ram.vm(), nil)
			if third.Parent != second.ID {
				t.Errorf("the third's parent is %q", third.Parent)
			}
			if o.ChunkSize == 0 && second.Cost.BytesScanned > first.Cost.BytesScanned/2 {
				t.Errorf("with a dirty bitmap, %d bytes were read", second.Cost.BytesScanned)
			}
			checkRestored(t, m, first.ID, want1)
			checkRestored(t, m, second.ID[:12], want2)
			checkRestored(t, m, "vm1@latest", ram.data)

			clone := create(t, m, "vm2", ram.vm(), &CreateOptions{Parent: third.ID})
			if clone.Cost.ChunksNew != 0 {
				t.Errorf("a clone stored %d chunks", clone.Cost.ChunksNew)
			}
			d, err := m.Diff(ctx, first.ID, third.ID)
			if err != nil || len(d.Streams) != 2 || d.Streams[0].Changed+d.Streams[0].Added == 0 || d.Streams[1].Same == 0 {
				t.Errorf("diff: %+v, %v", d, err)
			}
			if _, err := m.Delete(ctx, first.ID, second.ID); err != nil {
				t.Fatal(err)
			}
			gc, err := m.GC(ctx, nil)
			if err != nil {
				t.Fatal(err)
			}
			if gc.Snapshots != 2 || gc.BytesFreed <= 0 {
				t.Errorf("gc: %+v", gc)
			}
			checkRestored(t, m, third.ID, ram.data)
			checkRestored(t, m, clone.ID, ram.data)
			v, err := m.Verify(ctx, &VerifyOptions{Data: true})
			if err != nil || len(v.Damage) != 0 || v.Snapshots != 2 {
				t.Errorf("verify: %+v, %v", v, err)
			}
			st, err := m.Stats(ctx)
			if err != nil || st.Snapshots != 2 || len(st.Fragmentation) != 2 || st.Targets != 2 {
				t.Errorf("stats: %+v, %v", st, err)
			}
			if _, err := m.Get(ctx, first.ID); !errors.Is(err, ErrNotFound) {
				t.Errorf("a deleted snapshot: %v", err)
			}
		})
	}
}

// A chain of snapshots with parents deleted and garbage collected along the
// way restores whole, and stays in good order.
func TestChain(t *testing.T) {
	ctx := context.Background()
	m := newManager(t, nil)
	ram := newRAM(3, 16<<20)
	last := create(t, m, "vm", ram.vm(), nil)
	for i := range 120 {
		dirty := ram.touch(20)
		next := create(t, m, "vm", ram.vm(), &CreateOptions{Parent: last.ID, Dirty: dirty})
		if _, err := m.Delete(ctx, last.ID); err != nil {
			t.Fatal(err)
		}
		last = next
		if i%30 == 29 {
			if _, err := m.GC(ctx, nil); err != nil {
				t.Fatal(err)
			}
			checkRestored(t, m, last.ID, ram.data)
		}
	}
	st, err := m.Stats(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if f := st.Fragmentation[0]; f.FramesPerMiB > 16*1.3 {
		t.Errorf("%.1f frames for each MiB after gc", f.FramesPerMiB)
	}
	lone := newManager(t, nil)
	create(t, lone, "vm", ram.vm(), nil)
	alone, err := lone.Stats(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if st.PackBytes > alone.PackBytes*105/100 {
		t.Errorf("%d bytes of packs after gc, %d would do", st.PackBytes, alone.PackBytes)
	}
	manifests, err := m.manifests.List(ctx)
	if err != nil || len(manifests) > 35 {
		t.Errorf("%d manifests for one snapshot, %v", len(manifests), err)
	}
}
