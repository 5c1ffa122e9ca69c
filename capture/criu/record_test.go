package criu

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"runtime"
	"strings"
	"testing"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/pstree"
	"google.golang.org/protobuf/proto"

	"github.com/arcboxlabs/arcstore/chunker"
)

// image returns an image file of records.
func image(head []uint32, records ...[]byte) *bytes.Reader {
	var b []byte
	for _, n := range head {
		b = binary.LittleEndian.AppendUint32(b, n)
	}
	for _, r := range records {
		b = appendRecord(b, r)
	}
	return bytes.NewReader(b)
}

func marshal(t *testing.T, m proto.Message) []byte {
	t.Helper()
	b, err := proto.MarshalOptions{AllowPartial: true}.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestEach(t *testing.T) {
	for _, test := range []struct {
		name string
		head []uint32
		t    Type
	}{
		{"pstree.img", []uint32{commonMagic, uint32(TypePstree)}, TypePstree},
		{"inventory.img", []uint32{uint32(TypeInventory)}, TypeInventory},
		{"stats-dump", []uint32{serviceMagic, uint32(TypeStats)}, TypeStats},
	} {
		want := [][]byte{{}, []byte("one"), bytes.Repeat([]byte("two"), 100_000), {}}
		var got [][]byte
		err := Images{test.name: image(test.head, want...)}.Each(test.name, test.t, func(b []byte) error {
			got = append(got, bytes.Clone(b))
			return nil
		})
		if err != nil || len(got) != len(want) {
			t.Errorf("%s: %d records, %v", test.name, len(got), err)
			continue
		}
		for i := range want {
			if !bytes.Equal(got[i], want[i]) {
				t.Errorf("%s: record %d differs", test.name, i)
			}
		}
	}
	if err := (Images{}).Each("none.img", TypeCore, func([]byte) error { return errors.New("called") }); err != nil {
		t.Errorf("an image that is not there: %v", err)
	}
}

// allocated returns how many bytes fn allocates.
func allocated(fn func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	fn()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// sparse is a source that is much larger than what it was made of, as a file with a hole is.
type sparse struct {
	io.ReaderAt
	size int64
}

func (s sparse) Size() int64 { return s.size }

func TestEachRefusesDamage(t *testing.T) {
	head := []uint32{commonMagic, uint32(TypePstree)}
	whole, err := io.ReadAll(image(head, marshal(t, &pstree.PstreeEntry{Pid: proto.Uint32(7)})))
	if err != nil {
		t.Fatal(err)
	}
	for size := range whole {
		err := readPstree(bytes.NewReader(whole[:size]))
		if size == 8 { // no records at all
			if err != nil {
				t.Errorf("cut to %d bytes: %v", size, err)
			}
			continue
		}
		var image *ImageError
		if !errors.As(err, &image) || image.Name != "pstree.img" {
			t.Errorf("cut to %d bytes: %v", size, err)
		}
	}
	for _, test := range []struct {
		why  string
		src  chunker.Source
		want string
	}{
		{"a service file", image([]uint32{serviceMagic, uint32(TypePstree)}), "0x54564319"},
		{"another type", image([]uint32{commonMagic, uint32(TypeCore)}), "0x50273030"},
		{"a hostile size", image([]uint32{commonMagic, uint32(TypePstree), 0xffffffff, 0}), "claims 4294967295 bytes"},
		{"a hostile size in a sparse file", sparse{image([]uint32{commonMagic, uint32(TypePstree), 0xf0000000, 0}), 1 << 40}, "limit"},
		{"no protobuf", image(head, []byte{0xff}), "byte 8 is damaged"},
		{"a message cut off", image(head, []byte{8, 1}, []byte{0x2a, 100}), "byte 14 is damaged"},
	} {
		var err error
		took := allocated(func() { err = readPstree(test.src) })
		var image *ImageError
		if !errors.As(err, &image) || image.Name != "pstree.img" || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v", test.why, err)
		}
		if took > 1<<20 {
			t.Errorf("%s: %d bytes allocated", test.why, took)
		}
	}
	failing := errors.New("the disk is broken")
	if err := readPstree(sparse{failingReader{failing}, 100}); !errors.Is(err, failing) {
		t.Errorf("a read that fails: %v", err)
	}
}

type failingReader struct{ err error }

func (f failingReader) ReadAt([]byte, int64) (int, error) { return 0, f.err }

func readPstree(src chunker.Source) error {
	return Images{"pstree.img": src}.Each("pstree.img", TypePstree, func(b []byte) error {
		return Unmarshal(b, &pstree.PstreeEntry{})
	})
}

func TestOnly(t *testing.T) {
	record := marshal(t, &pstree.PstreeEntry{Pid: proto.Uint32(1), Ppid: proto.Uint32(2), Threads: []uint32{3, 4, 5}})
	b, err := Only(record, 1, 5)
	if err != nil {
		t.Fatal(err)
	}
	e := &pstree.PstreeEntry{}
	if err := Unmarshal(b, e); err != nil || e.GetPid() != 1 || e.Ppid != nil || len(e.Threads) != 3 {
		t.Errorf("%v, %v", e, err)
	}
	if _, err := Only(record[:len(record)-1], 1); err == nil {
		t.Error("a record that is cut off is not an error")
	}
}

func FuzzEach(f *testing.F) {
	for _, src := range []*bytes.Reader{
		image([]uint32{commonMagic, uint32(TypePstree)}, []byte{8, 1, 16, 0, 0x28, 1}, []byte{}),
		image([]uint32{commonMagic, uint32(TypePstree), 0xffffffff}),
	} {
		b, err := io.ReadAll(src)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var err error
		total := 0
		err = Images{"pstree.img": bytes.NewReader(b)}.Each("pstree.img", TypePstree, func(record []byte) error {
			total += 4 + len(record)
			return Unmarshal(record, &pstree.PstreeEntry{})
		})
		if err == nil && total+8 != len(b) {
			t.Errorf("%d bytes of records in %d without an error", total, len(b))
		}
	})
}
