package manifest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/arcboxlabs/arcstore/chunker"
	"github.com/arcboxlabs/arcstore/store/disk"
)

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
		c.reset(n, int64(len(b)))
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
		files := &Files{dir: "/m", disk: d}
		digest := digestOf(rootBytes)
		if err := disk.MakeDir(d, path.Dir(files.path(digest))); err != nil {
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

func FuzzCheckpoint(f *testing.F) {
	b, err := goldenCheckpoint().Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := DecodeCheckpoint(b)
		if err != nil {
			return
		}
		again, err := c.Encode()
		if err != nil {
			t.Fatalf("what was decoded does not encode: %v", err)
		}
		c, err = DecodeCheckpoint(again)
		if err != nil {
			t.Fatalf("what was encoded does not decode: %v", err)
		}
		if third, err := c.Encode(); err != nil || string(third) != string(again) {
			t.Errorf("%s comes back as %s, %v", again, third, err)
		}
	})
}

func FuzzArchive(f *testing.F) {
	b, err := goldenArchive().Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := DecodeArchive(b)
		if err != nil {
			return
		}
		end := int64(0)
		for _, m := range a.Members {
			if m.Offset < end || m.Size < 0 || m.Offset+m.Size > a.Size {
				t.Fatalf("%+v", a)
			}
			end = m.Offset + m.Size
		}
		if a.Rest() < 0 {
			t.Errorf("%+v has a rest of %d", a, a.Rest())
		}
		if _, err := a.Encode(); err != nil {
			t.Errorf("a valid archive does not encode: %v", err)
		}
	})
}
