package manifest

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/arcboxlabs/arcstore/chunker"
	"github.com/arcboxlabs/arcstore/store/disk"
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
func goldenFiles(tb testing.TB, d disk.Disk) (f *Files, digests [2]Digest) {
	tb.Helper()
	f = &Files{dir: "/manifests", disk: d}
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
	b, err := disk.ReadFile(f.disk, f.path(d), 1<<30)
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
	f := OpenFiles(filepath.Join(t.TempDir(), "manifests"), nil)
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
