package arcstore_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"github.com/arcboxlabs/arcstore"
	"github.com/arcboxlabs/arcstore/capture"
)

// TestPicture: each page is what it was made to be, and targets have in common what they were given.
func TestPicture(t *testing.T) {
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
	rng := rand.New(rand.NewPCG(3, 4))
	const page = 4096
	fill := func(memory []byte, pages ...int) {
		for _, p := range pages {
			for i := range page {
				memory[p*page+i] = byte(rng.Uint32())
			}
		}
	}
	create := func(target string, memory []byte) *arcstore.Snapshot {
		s, err := m.CreateVM(ctx, target, &arcstore.VM{Memory: capture.Bytes(memory)}, nil)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	other := make([]byte, 4*page)
	fill(other, 0, 1, 2)
	create("other", other)
	a := make([]byte, 8*page)
	fill(a, 0, 1, 2, 3)
	first := create("a", a)
	b := append([]byte{}, a...)
	copy(b[1*page:2*page], other[2*page:3*page]) // of another target
	copy(b[5*page:6*page], a[0:page])            // from elsewhere in the parent
	fill(b, 2)                                   // new
	clear(b[3*page : 4*page])                    // gone
	second := create("a", b)

	// Each cell is a page.
	p, err := m.Picture(ctx, second.ID, "memory", 8, "")
	if err != nil {
		t.Fatal(err)
	}
	zero, inherited, shared, fresh := arcstore.Cell{}, arcstore.Cell{Inherited: 255}, arcstore.Cell{Shared: 255}, arcstore.Cell{New: 255}
	want := []arcstore.Cell{inherited, shared, fresh, zero, zero, shared, zero, zero}
	for i, c := range p.Cells {
		if c != want[i] {
			t.Errorf("page %d is %+v, want %+v", i, c, want[i])
		}
	}
	// Two pages a cell, and another snapshot to compare with.
	p, err = m.Picture(ctx, first.ID, "memory", 4, second.ID[:8])
	if err != nil {
		t.Fatal(err)
	}
	if p.ChunksPerCell != 2 || len(p.Cells) != 4 || p.Cells[0] != (arcstore.Cell{Inherited: 127, New: 127}) || p.Cells[3] != zero {
		t.Errorf("%+v", p)
	}
	for name, err := range map[error]error{
		arcstore.ErrNoStream: second2(m.Picture(ctx, first.ID, "nothing", 4, "")),
		arcstore.ErrNotFound: second2(m.Picture(ctx, first.ID, "memory", 4, "nothing")),
		arcstore.ErrInvalid:  second2(m.Picture(ctx, first.ID, "memory", 0, "")),
	} {
		if !errors.Is(err, name) {
			t.Errorf("%v is not %v", err, name)
		}
	}

	s, err := m.Sharing(ctx)
	if err != nil {
		t.Fatal(err)
	}
	// a has pages 0, 1, 2 and 5, of which 5 is as 0; other has three.
	if len(s.Targets) != 2 || s.Targets[0] != "a" || s.Shared[0][0] != 3*page || s.Shared[1][1] != 3*page || s.Shared[0][1] != page || s.Shared[1][0] != page {
		t.Errorf("%+v", s)
	}
}

func second2[T any](_ T, err error) error { return err }
