package manifest

import (
	"context"
	"errors"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/arcboxlabs/arcstore/chunker"
	"github.com/arcboxlabs/arcstore/store/crypt"
	"github.com/arcboxlabs/arcstore/store/disk"
)

func TestLookupRange(t *testing.T) {
	f := OpenFiles(t.TempDir(), nil)
	table := openTable(t, f, buildFull(t, f, []chunker.ID{{1}, {}, {2}}))
	s := openStream(t, table, MemoryStream)
	for _, test := range []struct {
		first int64
		n     int
		ok    bool
	}{
		{0, 3, true}, {1, 2, true}, {3, 0, true}, {0, 0, true}, {7, 0, true},
		{0, 4, false}, {3, 1, false}, {-1, 1, false}, {1 << 62, 1, false}, {2, 2, false},
	} {
		if err := s.Lookup(test.first, make([]chunker.ID, test.n)); (err == nil) != test.ok || (err != nil && !errors.Is(err, ErrInvalid)) {
			t.Errorf("%d entries from %d on: %v", test.n, test.first, err)
		}
	}
	if _, err := table.Stream("vmstate"); !errors.Is(err, ErrNotFound) {
		t.Errorf("a stream that it lacks: %v", err)
	}
	if _, ok := table.Parent(); ok || !slices.Equal(table.Layers(), []Digest{table.Digest()}) || table.ChunkSize() != 4096 {
		t.Error("a full manifest has a parent, or another chunk size")
	}
	stop := errors.New("stop")
	if err := s.Own(context.Background(), func(int64, []chunker.ID) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("own, stopped: %v", err)
	}
	canceled, cancel := context.WithCancel(context.Background())
	cancel()
	for _, err := range []error{s.Own(canceled, nil), f.Verify(canceled, table.Digest()), func() error { _, err := f.Open(canceled, table.Digest()); return err }()} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("canceled: %v", err)
		}
	}
}

// An error of the device is not damage, and the next try reads the leaf.
func TestLookupTriesAgain(t *testing.T) {
	d := newMemDisk()
	f := &Files{dir: "/m", disk: d}
	s := openStream(t, openTable(t, f, buildFull(t, f, []chunker.ID{{1}, {2}})), MemoryStream)
	ids := make([]chunker.ID, 2)
	d.fails = func(int) bool { return true }
	if err := s.Lookup(0, ids); !errors.Is(err, errDisk) || errors.Is(err, ErrCorrupt) {
		t.Errorf("a failing disk: %v", err)
	}
	d.fails = nil
	if err := s.Lookup(0, ids); err != nil || !slices.Equal(ids, []chunker.ID{{1}, {2}}) {
		t.Errorf("after that: %v, %v", ids, err)
	}
}

// Manifests whose hashes are right but whose content is not: nothing is taken on trust.
func TestHostileManifests(t *testing.T) {
	ctx := context.Background()
	leaf := func(runs string, ids ...chunker.ID) []byte {
		b := append([]byte{byte(len(runs)), 0, 0, 0}, runs...)
		for _, id := range ids {
			b = append(b, id[:]...)
		}
		return b
	}
	good := leaf("\x06", chunker.ID{1}) // one entry of data
	stream := func(name string, places ...leafPlace) rootStream {
		s := rootStream{Stream: Stream{name, 3 * leafChunks * 4096}}
		for _, p := range places {
			if p.hash == nil {
				h := digestOf(good)
				p.hash = h[:]
			}
			s.addPlace(p)
		}
		return s
	}
	n := int64(len(good))
	one := func(s *rootStream) *root { return &root{chunkSize: 4096, streams: []rootStream{*s}} }
	at := func(number, offset, length int64) leafPlace { return leafPlace{number, offset, length, nil} }
	for _, test := range []struct {
		name   string
		leaves []byte
		change func(r *root) // of one with the stream "a" and one leaf
		want   string        // "" for none
	}{
		{"good", good, func(r *root) {}, ""},
		{"two leaves", slices.Concat(good, good), func(r *root) { *r = *one(ptr(stream("a", at(0, 16, n), at(2, 16+n, n)))) }, ""},
		{"leaves of two streams", slices.Concat(good, good), func(r *root) { r.streams = []rootStream{stream("a", at(0, 16+n, n)), stream("b", at(0, 16, n))} }, ""},
		{"the same leaf twice", slices.Concat(good, good), func(r *root) { *r = *one(ptr(stream("a", at(1, 16, n), at(1, 16+n, n)))) }, "malformed"},
		{"unsorted leaves", slices.Concat(good, good), func(r *root) { *r = *one(ptr(stream("a", at(1, 16, n), at(0, 16+n, n)))) }, "malformed"},
		{"overlapping leaves", slices.Concat(good, good), func(r *root) { *r = *one(ptr(stream("a", at(0, 16, n), at(1, 16, n)))) }, "follow"},
		{"leaves that swapped places", slices.Concat(good, good), func(r *root) { *r = *one(ptr(stream("a", at(0, 16+n, n), at(1, 16, n)))) }, "follow"},
		{"streams that share a leaf", slices.Concat(good, good), func(r *root) { r.streams = []rootStream{stream("a", at(0, 16, n)), stream("b", at(0, 16, n))} }, "overlap"},
		{"a gap", slices.Concat(good, good), func(r *root) { *r = *one(ptr(stream("a", at(0, 16+n, n)))) }, "gap"},
		{"bytes that are no leaf's", slices.Concat(good, good), func(r *root) {}, "fill"},
		{"a leaf beyond the stream", good, func(r *root) { *r = *one(ptr(stream("a", at(3, 16, n)))) }, "malformed"},
		{"a leaf with a huge number", good, func(r *root) { *r = *one(ptr(stream("a", at(-1, 16, n)))) }, "malformed"},
		{"a leaf beyond the file", good, func(r *root) { *r = *one(ptr(stream("a", at(0, 16, n+1)))) }, "fill"},
		{"a leaf that is too long", good, func(r *root) { *r = *one(ptr(stream("a", at(0, 16, maxLeaf+crypt.Overhead+1)))) }, "malformed"},
		{"a leaf at a huge offset", good, func(r *root) { *r = *one(ptr(stream("a", at(0, 1<<63-1, n)))) }, "follow"},
		{"a leaf in the header", good, func(r *root) { *r = *one(ptr(stream("a", at(0, 0, n)))) }, "follow"},
		{"a negative size", good, func(r *root) { r.streams[0].Size = -1 }, "malformed"},
		{"a huge size", good, func(r *root) { r.streams[0].Size = maxStreamSize + 1 }, "malformed"},
		{"an escape", good, func(r *root) { r.streams[0].Name = "../a" }, "stream name"},
		{"a rooted name", good, func(r *root) { r.streams[0].Name = "/etc/passwd" }, "stream name"},
		{"streams out of order", good, func(r *root) { r.streams = append(r.streams, stream("A")) }, "sorted"},
		{"a stream twice", good, func(r *root) { r.streams = append(r.streams, stream("a")) }, "sorted"},
		{"a file and a directory", good, func(r *root) { r.streams = append(r.streams, stream("a-"), stream("a/b")) }, "directory"},
		{"based on nothing", good, func(r *root) { r.streams[0].based = true }, "malformed"},
		{"a chunk size of 0", good, func(r *root) { r.chunkSize = 0 }, "chunk size"},
		{"a chunk size of 2 MiB + 1", good, func(r *root) { r.chunkSize = 2<<20 + 1 }, "chunk size"},
		{"a parent but no depth", good, func(r *root) { r.parent = Digest{1} }, "ancestors"},
		{"a depth but no parent", good, func(r *root) { r.depth = 1 }, "ancestors"},
		{"a depth beyond the bound", good, func(r *root) { r.depth, r.parent = MaxDepth+1, Digest{1} }, "ancestors"},
		{"wrong sums", good, func(r *root) { r.baseBytes++ }, "sums"},
		{"an empty leaf", leaf(""), func(r *root) {}, ""},
		{"a run of none", leaf("\x02"), func(r *root) {}, "malformed"},
		{"a run of an unknown kind", leaf("\x07", chunker.ID{1}), func(r *root) {}, "malformed"},
		{"runs beyond the leaf", leaf("\x80\x80\x02\x04"), func(r *root) {}, "malformed"},
		{"a run without end", leaf("\x80"), func(r *root) {}, "malformed"},
		{"a huge run", leaf("\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01"), func(r *root) {}, "malformed"},
		{"too few IDs", leaf("\x0a", chunker.ID{1}), func(r *root) {}, "malformed"},
		{"too many IDs", leaf("\x06", chunker.ID{1}, chunker.ID{2}), func(r *root) {}, "malformed"},
		{"a hole for an ID", leaf("\x06", chunker.ID{}), func(r *root) {}, "malformed"},
		{"a huge list of runs", []byte{255, 255, 255, 255}, func(r *root) {}, "malformed"},
	} {
		r := one(ptr(stream("a", leafPlace{0, headerSize, int64(len(test.leaves)), nil})))
		h := digestOf(test.leaves)
		copy(r.streams[0].leaves[20:], h[:])
		if test.name == "bytes that are no leaf's" {
			r = one(ptr(stream("a", at(0, 16, n))))
		}
		r.baseBytes = int64(len(test.leaves))
		test.change(r)
		if r.streams[0].Name != "" && r.baseBytes == 0 {
			r.baseBytes = int64(len(test.leaves))
		}
		f, digest := plant(t, newMemDisk(), test.leaves, r)
		err := f.Verify(ctx, digest)
		table, oerr := f.Open(ctx, digest)
		if oerr == nil {
			s := openStream(t, table, "a")
			oerr = s.Lookup(0, make([]chunker.ID, s.Len()))
		}
		for _, err := range []error{err, oerr} {
			if test.want == "" && err != nil {
				t.Errorf("%s: %v", test.name, err)
			}
			if test.want != "" && (!errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("%s: %v, want damage: %s", test.name, err, test.want)
			}
		}
	}
}

func ptr[T any](v T) *T { return &v }

// plant puts a manifest file on a disk.
func plant(t *testing.T, d *memDisk, leaves []byte, r *root) (*Files, Digest) {
	t.Helper()
	f := &Files{dir: "/m", disk: d}
	encoded := r.encode()
	digest := digestOf(encoded)
	if err := disk.MakeDir(d, path.Dir(f.path(digest))); err != nil {
		t.Fatal(err)
	}
	dir, base, _, _ := d.find(f.path(digest))
	dir.live[base] = &memNode{data: slices.Concat(encodeHeader(), leaves, encoded, encodeFooter(int64(headerSize+len(leaves)), int64(len(encoded))))}
	return f, digest
}

// Chains that do not fit together.
func TestHostileChains(t *testing.T) {
	ctx := context.Background()
	base := func() *root { return &root{chunkSize: 4096, streams: []rootStream{{Stream: Stream{"a", 4096}}}} }
	for _, test := range []struct {
		name   string
		change func(base, child *root)
		want   error
	}{
		{"good", func(base, child *root) {}, nil},
		{"another chunk size", func(base, child *root) { child.chunkSize = 8192 }, ErrCorrupt},
		{"depth two above depth nought", func(base, child *root) { child.depth = 2 }, ErrCorrupt},
		{"another sum of the chain", func(base, child *root) { child.chainBytes = 7 }, ErrCorrupt},
		{"another size of the base", func(base, child *root) { child.baseBytes = 7 }, ErrCorrupt},
		{"no such parent", func(base, child *root) { child.parent = Digest{1} }, ErrNotFound},
		{"no such stream", func(base, child *root) { base.streams = nil }, ErrCorrupt},
	} {
		d := newMemDisk()
		below, child := base(), base()
		child.depth, child.streams[0].based = 1, true
		test.change(below, child)
		_, digest := plant(t, d, nil, below)
		if child.parent == (Digest{}) {
			child.parent = digest
		}
		f, top := plant(t, d, nil, child)
		table, err := f.Open(ctx, top)
		if err == nil {
			_, err = table.Stream("a")
		}
		if !errors.Is(err, test.want) || (test.want == nil && err != nil) {
			t.Errorf("%s: %v, want %v", test.name, err, test.want)
		}
	}
	// Itself for its parent would take a digest that holds itself; under a wrong name it is noticed.
	d := newMemDisk()
	loop := base()
	loop.depth, loop.parent = 1, Digest{7}
	f, digest := plant(t, d, nil, loop)
	if err := disk.MakeDir(d, path.Dir(f.path(Digest{7}))); err != nil {
		t.Fatal(err)
	}
	if err := d.Rename(f.path(digest), f.path(Digest{7})); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Open(ctx, Digest{7}); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a manifest that names itself: %v", err)
	}
}
