package manifest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"hash/crc32"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/arcboxlabs/arcstore/chunker"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// golden compares b with a golden file.
func golden(t *testing.T, name string, b []byte) {
	t.Helper()
	name = filepath.Join("testdata/v1", name)
	if *update {
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if want := readFile(t, name); !bytes.Equal(want, b) {
		t.Errorf("what is written (%d bytes) differs from %s (%d bytes)", len(b), name, len(want))
	}
}

func readFile(tb testing.TB, name string) []byte {
	tb.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

func idOf(n int) chunker.ID { return chunker.Sum(fmt.Append(nil, n)) }

// goldenIDs are the entries of the streams in the golden manifests, the full
// one and the one that builds on it.
func goldenIDs() (full, diff map[string][]chunker.ID) {
	memory := make([]chunker.ID, 2*leafChunks+10)
	for i := range 5 {
		memory[i] = idOf(i)
		memory[leafChunks-1+2*i] = idOf(100 + i)
	}
	memory[len(memory)-1] = idOf(999) // a short chunk
	full = map[string][]chunker.ID{
		MemoryStream:         memory,
		"criu/pages-1.img":   {idOf(1), {}, idOf(2)},
		"device/serial/com1": {},
		"empty":              make([]chunker.ID, 300),
	}
	changed := slices.Clone(memory)
	changed[1], changed[3], changed[leafChunks+1] = chunker.ID{}, idOf(200), idOf(201)
	changed[len(changed)-1] = idOf(998) // it was short
	diff = map[string][]chunker.ID{
		MemoryStream:    append(changed, idOf(300), idOf(301)), // it grew
		"empty":         full["empty"],
		"vmstate":       {idOf(7)}, // new
		"vcpu/0":        {},
		"vcpu-as-a-dir": {},
	}
	return full, diff
}

// goldenSize is the length of a stream of n entries: its last chunk is short.
func goldenSize(n int) int64 { return max(0, int64(n)*4096-96) }

// goldenFiles builds the golden manifests.
func goldenFiles(tb testing.TB, d disk) (f *Files, digests [2]Digest) {
	tb.Helper()
	f = &Files{"/manifests", d}
	full, diff := goldenIDs()
	var parent *Table
	for i, streams := range []map[string][]chunker.ID{full, diff} {
		b, err := f.Build(context.Background(), 4096, parent)
		if err != nil {
			tb.Fatal(err)
		}
		names := []string{MemoryStream} // first, although that is not their order in the file
		for name := range streams {
			if name != MemoryStream {
				names = append(names, name)
			}
		}
		slices.Sort(names[1:])
		for _, name := range names {
			s, err := b.Stream(name, goldenSize(len(streams[name])))
			if err != nil {
				tb.Fatal(err)
			}
			if err := appendChanged(s, full[name], streams[name], i > 0); err != nil {
				tb.Fatal(err)
			}
		}
		if digests[i], err = b.Commit(context.Background()); err != nil {
			tb.Fatal(err)
		}
		parent = openTable(tb, f, digests[i])
	}
	return f, digests
}

// appendChanged adds ids to s, those that are the parent's by Inherit.
func appendChanged(s *StreamBuilder, parent, ids []chunker.ID, based bool) error {
	for i := range ids {
		err := error(nil)
		if based && i < len(parent) && parent[i] == ids[i] {
			err = s.Inherit(1)
		} else {
			err = s.Append(ids[i : i+1])
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// fileOf returns the bytes of a manifest.
func fileOf(tb testing.TB, f *Files, d Digest) []byte {
	tb.Helper()
	b, err := readBounded(f.disk, f.path(d), 1<<30)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// What is written must stay what it is.
func TestGoldenEncode(t *testing.T) {
	f, digests := goldenFiles(t, newMemDisk())
	golden(t, "full", fileOf(t, f, digests[0]))
	golden(t, "diff", fileOf(t, f, digests[1]))
	golden(t, "digests", fmt.Appendf(nil, "full %s\ndiff %s\n", digests[0], digests[1]))
	b, err := goldenEntry(digests[1]).encode()
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "entry.json", b)
	if b, err = goldenMachine().Encode(); err != nil {
		t.Fatal(err)
	}
	golden(t, "machine.json", b)
}

// The files of format 1 that are out there must stay readable.
func TestGoldenDecode(t *testing.T) {
	f := OpenFiles(filepath.Join(t.TempDir(), "manifests"))
	var digests [2]Digest
	for i, line := range strings.Split(strings.TrimSpace(string(readFile(t, "testdata/v1/digests"))), "\n") {
		name, digest, _ := strings.Cut(line, " ")
		var err error
		if digests[i], err = ParseDigest(digest); err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(filepath.Dir(f.path(digests[i])), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(f.path(digests[i]), readFile(t, filepath.Join("testdata/v1", name)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	full, diff := goldenIDs()
	for i, streams := range []map[string][]chunker.ID{full, diff} {
		if err := f.Verify(context.Background(), digests[i]); err != nil {
			t.Fatal(err)
		}
		if err := sameTable(openTable(t, f, digests[i]), streams); err != nil {
			t.Fatal(err)
		}
	}
	e, err := decodeEntry(readFile(t, "testdata/v1/entry.json"))
	if want := goldenEntry(digests[1]); err != nil || !reflect.DeepEqual(e, want) {
		t.Errorf("the entry is %+v, %v, want %+v", e, err, want)
	}
	m, err := DecodeMachine(readFile(t, "testdata/v1/machine.json"))
	if want := goldenMachine(); err != nil || !reflect.DeepEqual(m, want) {
		t.Errorf("the machine is %+v, %v, want %+v", m, err, want)
	}
}

// sameTable compares a table with what it should hold.
func sameTable(t *Table, streams map[string][]chunker.ID) error {
	if n := len(t.Streams()); n != len(streams) {
		return fmt.Errorf("%d streams, want %d", n, len(streams))
	}
	for _, info := range t.Streams() {
		want, ok := streams[info.Name]
		if !ok {
			return fmt.Errorf("there is a stream %s", info.Name)
		}
		s, err := t.Stream(info.Name)
		if err != nil {
			return err
		}
		if s.Len() != int64(len(want)) || s.Size() != info.Size {
			return fmt.Errorf("stream %s: %d chunks, %d bytes (%d listed), want %d chunks", info.Name, s.Len(), s.Size(), info.Size, len(want))
		}
		got := make([]chunker.ID, s.Len())
		if err := s.Lookup(0, got); err != nil {
			return err
		}
		for i := range got {
			if got[i] != want[i] {
				return fmt.Errorf("stream %s: entry %d is %s, want %s", info.Name, i, got[i], want[i])
			}
		}
	}
	return nil
}

func goldenEntry(d Digest) *Entry {
	return &Entry{
		Format: 1, ID: "0123456789abcdef0123456789abcdef", Name: "before the <update>", TargetID: "prod/web:1", TargetType: VM,
		Created: time.Date(2026, 11, 23, 4, 5, 6, 789, time.UTC), Size: 1 << 30, Parent: "first", Description: "line\n\u2028\"two\"",
		Labels: map[string]string{"pin": "yes", "": "empty"}, State: Ready, Manifest: d,
		Cost:  Cost{BytesScanned: 1 << 30, BytesNew: 4096, BytesStored: 100, ChunksNew: 1, Duration: 1500 * time.Millisecond},
		Packs: []string{"0011", "aabb"},
	}
}

func goldenMachine() *Machine {
	return &Machine{
		Format: 1, Architecture: "amd64",
		Regions: []Region{{0, 3 << 30, 0, false}, {1<<64 - 4096, 4096, 3 << 30, true}},
		VCPUs:   []VCPU{{Index: 0, Registers: map[string]uint64{"rip": 1<<64 - 1, "rax": 1<<53 + 1}, State: VCPUStream(0)}, {Index: 7}},
		Devices: []Device{{"virtio-net", "eth0", DeviceStream("virtio-net", "eth0")}},
	}
}

// No flipped bit of a manifest shows as other entries, and verification finds every one.
func TestEveryBitOfAManifest(t *testing.T) {
	ctx := context.Background()
	d := newMemDisk()
	f, digests := goldenFiles(t, d)
	full, diff := goldenIDs()
	contents := []map[string][]chunker.ID{full, diff}
	step := 1
	if testing.Short() {
		step = 13
	}
	for i, digest := range digests {
		_, _, n, err := d.find(f.path(digest))
		if err != nil {
			t.Fatal(err)
		}
		for bit := 0; bit < len(n.data)*8; bit += step {
			n.data[bit/8] ^= 1 << (bit % 8)
			for k := i; k < len(digests); k++ { // itself, and what builds on it
				table, err := f.Open(ctx, digests[k])
				if err == nil {
					err = sameTable(table, contents[k])
					table.Close()
				}
				if err != nil && !errors.Is(err, ErrCorrupt) {
					t.Fatalf("bit %d of byte %d of manifest %d: reading %d: %v", bit%8, bit/8, i, k, err)
				}
			}
			if err := f.Verify(ctx, digest); !errors.Is(err, ErrCorrupt) {
				t.Fatalf("bit %d of byte %d of manifest %d: verification says %v", bit%8, bit/8, i, err)
			}
			n.data[bit/8] ^= 1 << (bit % 8)
		}
		for length := range n.data {
			whole := n.data
			n.data = whole[:length]
			if err := f.Verify(ctx, digest); !errors.Is(err, ErrCorrupt) {
				t.Fatalf("manifest %d cut to %d bytes: verification says %v", i, length, err)
			}
			n.data = whole
		}
	}
}

func TestEveryBitOfAnEntry(t *testing.T) {
	sound, err := goldenEntry(Digest{1}).encode()
	if err != nil {
		t.Fatal(err)
	}
	for bit := range len(sound) * 8 {
		b := bytes.Clone(sound)
		b[bit/8] ^= 1 << (bit % 8)
		if e, err := decodeEntry(b); err == nil || errors.Is(err, ErrVersion) {
			t.Fatalf("bit %d of byte %d: %+v, %v", bit%8, bit/8, e, err)
		}
	}
	for length := range sound {
		if e, err := decodeEntry(sound[:length]); err == nil {
			t.Fatalf("cut to %d bytes: %+v", length, e)
		}
	}
}

// A format from the future is called that, not damage.
func TestNewerVersion(t *testing.T) {
	footer := encodeFooter(16, 64)
	footer[16] = fileVersion + 1
	copy(footer[20:], crcOf(footer[:20]))
	if _, _, err := decodeFooter(footer, 16+64+footerSize); !errors.Is(err, ErrVersion) {
		t.Errorf("footer: %v", err)
	}
	r := root{chunkSize: 4096}
	b := r.encode()
	b[0] = fileVersion + 1
	if _, err := decodeRoot(b, headerSize); !errors.Is(err, ErrVersion) {
		t.Errorf("root: %v", err)
	}
	entry := `{"format": 2, "id": ["another", "form"],` + "\n"
	if _, err := decodeEntry([]byte(entry + checksumLine([]byte(entry)))); !errors.Is(err, ErrVersion) {
		t.Errorf("entry: %v", err)
	}
	if _, err := DecodeMachine([]byte(`{"format": 2, "regions": 7}`)); !errors.Is(err, ErrVersion) {
		t.Errorf("machine: %v", err)
	}
	for _, err := range []error{checkVersion(0), func() error { _, err := DecodeMachine([]byte(`{}`)); return err }()} {
		if err == nil || errors.Is(err, ErrVersion) {
			t.Errorf("no version: %v", err)
		}
	}
}

func crcOf(b []byte) []byte {
	sum := crc32.Checksum(b, crcTable)
	return []byte{byte(sum), byte(sum >> 8), byte(sum >> 16), byte(sum >> 24)}
}

func FuzzRoot(f *testing.F) {
	files, digests := goldenFiles(f, newMemDisk())
	for _, d := range digests {
		l, err := files.openLayer(d)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(l.root.encode(), l.end)
	}
	f.Fuzz(func(t *testing.T, b []byte, end int64) {
		r, err := decodeRoot(b, end)
		if err != nil {
			return
		}
		if !bytes.Equal(r.encode(), b) {
			t.Error("a root that decodes encodes to something else")
		}
		for i := range r.streams {
			s := &r.streams[i]
			if r.stream(s.Name) != s {
				t.Errorf("stream %q is not found", s.Name)
			}
			for k := range s.leafCount() {
				p := s.place(k)
				if got, at, ok := s.leaf(p.number); !ok || at != k || got.offset != p.offset || p.offset < headerSize || p.end() > end {
					t.Errorf("leaf %d of stream %q is at %d to %d", p.number, s.Name, p.offset, p.end())
				}
			}
		}
	})
}

func FuzzLeaf(f *testing.F) {
	var b leafBuilder
	b.add(inherit, 7)
	b.addData([]chunker.ID{idOf(1), idOf(2)})
	b.add(hole, 300)
	b.addData([]chunker.ID{idOf(3)})
	f.Add(bytes.Clone(b.encode()), leafChunks, leafChunks)
	f.Add([]byte{0, 0, 0, 0}, 0, 0)
	f.Fuzz(func(t *testing.T, b []byte, n, limit int) {
		if n < 0 || n > leafChunks || limit < 0 || limit > n {
			return
		}
		next, ids := 0, 0
		err := decodeLeaf(b, n, func(k kind, first, count int, own []byte) {
			if first != next || count < 1 || first+count > n || (k == data) != (len(own) > 0) || len(own)%chunker.IDSize != 0 {
				t.Fatalf("a run of %d entries of kind %d from %d on, %d bytes of IDs", count, k, first, len(own))
			}
			next += count
			ids += len(own)
		})
		var c composed
		c.reset(int64(len(b)))
		if cerr := c.underlay(b, n, limit); (cerr == nil) != (err == nil) {
			t.Errorf("decoded: %v, composed: %v", err, cerr)
		}
		if cerr := c.underlay(b, n, n); cerr == nil {
			c.fill(0, make([]chunker.ID, leafChunks))
		}
		if err == nil && ids > len(b) {
			t.Errorf("%d bytes of IDs in %d", ids, len(b))
		}
	})
}

func FuzzFooter(f *testing.F) {
	f.Add(encodeFooter(16, 64), int64(16+64+footerSize))
	f.Fuzz(func(t *testing.T, b []byte, size int64) {
		for _, b := range [][]byte{b, withSum(b)} {
			offset, length, err := decodeFooter(b, size)
			if err == nil && (offset < headerSize || length < 0 || offset+length+footerSize != size) {
				t.Errorf("a root at %d, %d bytes, in a file of %d", offset, length, size)
			}
		}
	})
}

// withSum makes a footer's checksum right: behind it nothing may be trusted either.
func withSum(b []byte) []byte {
	if len(b) != footerSize {
		return b
	}
	b = bytes.Clone(b)
	copy(b[20:], crcOf(b[:20]))
	return b
}

// FuzzManifest reads whatever root and leaves a manifest has, with all its hashes right.
func FuzzManifest(f *testing.F) {
	files, digests := goldenFiles(f, newMemDisk())
	b := fileOf(f, files, digests[0])
	l, err := files.openLayer(digests[0])
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b[headerSize:l.end], b[l.end:len(b)-footerSize])
	f.Fuzz(func(t *testing.T, leaves, rootBytes []byte) {
		ctx := context.Background()
		b := slices.Concat(encodeHeader(), leaves, rootBytes, encodeFooter(int64(headerSize+len(leaves)), int64(len(rootBytes))))
		d := newMemDisk()
		files := &Files{"/m", d}
		digest := digestOf(rootBytes)
		if err := makeDir(d, path.Dir(files.path(digest))); err != nil {
			t.Fatal(err)
		}
		dir, base, _, _ := d.find(files.path(digest))
		dir.live[base] = &memNode{data: b}
		table, err := files.Open(ctx, digest)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrVersion) && !errors.Is(err, ErrNotFound) {
				t.Fatal(err)
			}
			return
		}
		sound := files.Verify(ctx, digest) == nil
		for _, info := range table.Streams() {
			s, err := table.Stream(info.Name)
			if err != nil {
				t.Fatal(err)
			}
			ids := make([]chunker.ID, min(s.Len(), 2*leafChunks))
			if err := s.Lookup(s.Len()-int64(len(ids)), ids); err != nil && sound {
				t.Errorf("sound, but %v", err)
			}
			if err := s.Own(ctx, func(first int64, ids []chunker.ID) error { return nil }); err != nil && sound {
				t.Errorf("sound, but %v", err)
			}
		}
	})
}

func FuzzEntry(f *testing.F) {
	b, err := goldenEntry(Digest{1}).encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b[:len(b)-sumSize])
	f.Add([]byte(`{"format":1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := decodeEntry(b); err == nil {
			return // by its own checksum
		}
		e, err := decodeEntry(append(bytes.Clone(b), checksumLine(b)...))
		if err != nil {
			return
		}
		again, err := e.encode()
		if err != nil {
			t.Fatalf("an entry that decodes does not encode: %v", err)
		}
		second, err := decodeEntry(again)
		if err != nil {
			t.Fatalf("an entry that was encoded does not decode: %v", err)
		}
		x, _ := json.Marshal(e)
		y, _ := json.Marshal(second)
		if !bytes.Equal(x, y) {
			t.Errorf("%s became %s", x, y)
		}
	})
}

func FuzzMachine(f *testing.F) {
	b, err := goldenMachine().Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b, int64(4<<30))
	f.Fuzz(func(t *testing.T, b []byte, size int64) {
		m, err := DecodeMachine(b)
		if err != nil {
			return
		}
		if m.Validate(size) != nil {
			return
		}
		sum := int64(0)
		for _, r := range m.Regions {
			if sum += r.Size; r.Size < 1 || r.Offset < 0 || r.Offset+r.Size > size || sum > size {
				t.Errorf("region %+v in %d bytes", r, size)
			}
		}
		if _, err := m.Encode(); err != nil {
			t.Errorf("a valid machine does not encode: %v", err)
		}
	})
}

func FuzzName(f *testing.F) {
	for _, name := range []string{MemoryStream, "criu/pages-1.img", "../x", "a//b", `a\b`, "a/./b", "/a"} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if ValidName(name) == nil && (!filepath.IsLocal(name) || path.Clean(name) != name || len(name) > 255) {
			t.Errorf("%q is taken for a name", name)
		}
		if ValidID(name) == nil && (strings.ContainsAny(name, "/\\\x00") || !filepath.IsLocal(name)) {
			t.Errorf("%q is taken for an ID", name)
		}
		if d, err := ParseDigest(name); err == nil && d.String() != name {
			t.Errorf("%q is taken for %s", name, d)
		}
	})
}
