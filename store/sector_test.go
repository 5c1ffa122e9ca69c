package store

import (
	"context"
	"errors"
	"strings"
	"syscall"
	"testing"

	"github.com/arcboxlabs/arcstore/store/disk"
)

// badSectors is a disk of which some of the packs' bytes cannot be read.
type badSectors struct {
	disk.Disk
	from, to int64
	err      error
}

func (d *badSectors) Open(name string) (disk.File, error) {
	f, err := d.Disk.Open(name)
	if err != nil || !strings.Contains(name, packsName) {
		return f, err
	}
	return &badFile{f, d}, nil
}

type badFile struct {
	disk.File
	d *badSectors
}

func (f *badFile) ReadAt(p []byte, off int64) (int, error) {
	if f.d.err != nil && off < f.d.to && off+int64(len(p)) > f.d.from {
		return 0, f.d.err
	}
	return f.File.ReadAt(p, off)
}

// A sector that cannot be read is damage, of no more than its frame; any other error of the device is none.
func TestBadSectors(t *testing.T) {
	ctx := context.Background()
	s := newStore(t, Config{})
	m := model{}
	_, w := put(t, s, m, 0, 300)
	table, err := s.loadTable(w.Packs[0])
	if err != nil {
		t.Fatal(err)
	}
	frame := table.frames[4]
	for name, d := range map[string]*badSectors{
		"a frame":   {from: frame.offset + 100, to: frame.offset + 200},
		"the table": {from: table.size - 100, to: table.size - 99},
	} {
		d.Disk = disk.OS
		r, err := Open(ctx, s.dir, Options{ReadOnly: true, Disk: d})
		if err != nil {
			t.Fatal(err)
		}
		d.err = syscall.ETIMEDOUT
		f := r.NewFetcher(nil)
		defer f.Close()
		if err := f.Fetch(ctx, m.ids(), func(int, []byte) error { return nil }); !errors.Is(err, syscall.ETIMEDOUT) || errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: what may pass: %v", name, err)
		}
		if _, err := r.Verify(ctx, VerifyOptions{Data: 100}); !errors.Is(err, syscall.ETIMEDOUT) {
			t.Errorf("%s: what may pass: %v", name, err)
		}
		if r.damage.known() {
			t.Fatalf("%s: what may pass was noted as damage", name)
		}
		d.err = syscall.EIO
		lost := m.salvage(t, r)
		want := len(m)
		if name == "a frame" {
			want = int(frame.chunks)
		}
		if len(lost) != want {
			t.Errorf("%s: %d chunks are lost, want %d", name, len(lost), want)
		}
		v, err := r.Verify(ctx, VerifyOptions{Data: 100})
		if err != nil || len(v.Damage) != 1 {
			t.Errorf("%s: %+v, %v", name, v, err)
		}
		// What can be read again is sound again.
		d.err = nil
		if v, err = r.Verify(ctx, VerifyOptions{Data: 100}); err != nil || len(v.Damage) != 0 || r.damage.known() {
			t.Errorf("%s: %+v, %v", name, v, err)
		}
		m.check(t, r, nil)
	}
}
