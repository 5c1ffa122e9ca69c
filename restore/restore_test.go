package restore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"testing/iotest"

	"github.com/arcboxlabs/arcstore/chunker"
	"github.com/arcboxlabs/arcstore/manifest"
)

const chunkSize = 4096

// chunks is a Source in memory. It delivers last things first and pieces of
// every length, as a store may.
type chunks map[chunker.ID][]byte

func (c chunks) Fetch(ctx context.Context, ids []chunker.ID, deliver func(i int, data []byte) error) error {
	for end := len(ids); end > 0; {
		start := max(0, end-1-end%5)
		var run []byte
		for _, id := range ids[start:end] {
			b, ok := c[id]
			if !ok {
				return fmt.Errorf("chunk %s is not there", id)
			}
			run = append(run, b...)
		}
		if err := deliver(start, run); err != nil {
			return err
		}
		end = start
	}
	return ctx.Err()
}

// Salvage is Fetch chunk by chunk.
func (c chunks) Salvage(ctx context.Context, ids []chunker.ID, deliver func(i int, data []byte) error, lost func(i int, why error)) error {
	for i := range ids {
		b, ok := c[ids[i]]
		if !ok {
			lost(i, errors.New("not there"))
			continue
		}
		if err := deliver(i, b); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// snapshot writes streams into a manifest and a source.
func snapshot(t *testing.T, streams map[string][]byte) (*manifest.Table, chunks) {
	t.Helper()
	ctx := context.Background()
	files := manifest.OpenFiles(t.TempDir(), nil)
	b, err := files.Build(ctx, chunkSize, nil)
	if err != nil {
		t.Fatal(err)
	}
	c := chunks{}
	for name, data := range streams {
		s, err := b.Stream(name, int64(len(data)))
		if err != nil {
			t.Fatal(err)
		}
		for part := range slicesOf(data) {
			var id chunker.ID
			if !chunker.IsZero(part) {
				id = chunker.Sum(part)
				c[id] = part
			}
			if err := s.Append([]chunker.ID{id}); err != nil {
				t.Fatal(err)
			}
		}
	}
	d, err := b.Commit(ctx)
	if err != nil {
		t.Fatal(err)
	}
	table, err := files.Open(ctx, d)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { table.Close() })
	return table, c
}

func slicesOf(data []byte) func(func([]byte) bool) {
	return func(yield func([]byte) bool) {
		for len(data) > 0 {
			n := min(chunkSize, len(data))
			if !yield(data[:n]) {
				return
			}
			data = data[n:]
		}
	}
}

// memory makes a stream of data and holes, with a short end.
func memory(seed uint64, size int) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	b := make([]byte, size)
	for at := 0; at < size; {
		n := min(size-at, (1+r.IntN(30))*chunkSize)
		if r.IntN(2) == 0 {
			for i := at; i < at+n; i += 16 {
				b[i] = byte(r.Uint32())
			}
		}
		at += n
	}
	return b
}

func TestDir(t *testing.T) {
	ctx := context.Background()
	want := map[string][]byte{"memory": memory(1, 70<<20+5), "vcpu/0": memory(2, 100), "empty": nil}
	table, src := snapshot(t, want)
	dir := filepath.Join(t.TempDir(), "out")
	got, err := Dir(ctx, table, src, dir, DirOptions{ChunkSize: chunkSize})
	if err != nil || got.Streams != 3 {
		t.Fatalf("%+v, %v", got, err)
	}
	check := func() {
		t.Helper()
		for name, data := range want {
			b, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil || !bytes.Equal(b, data) {
				t.Errorf("%s came back different: %v", name, err)
			}
		}
		if left, _ := filepath.Glob(filepath.Join(dir, "*"+partialSuffix)); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	}
	check()

	if _, err := Dir(ctx, table, src, dir, DirOptions{ChunkSize: chunkSize}); !errors.Is(err, ErrExists) {
		t.Errorf("files that exist: %v", err)
	}
	// Who has the old file open keeps it.
	old, err := os.Open(filepath.Join(dir, "vcpu/0"))
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	want["vcpu/0"] = []byte("something else")
	table, src = snapshot(t, want)
	if _, err := Dir(ctx, table, src, dir, DirOptions{ChunkSize: chunkSize, Force: true}); err != nil {
		t.Fatal(err)
	}
	check()
	if b, err := io.ReadAll(old); err != nil || !bytes.Equal(b, memory(2, 100)) {
		t.Errorf("a file that was open changed under its reader: %v", err)
	}
}

// A stream's name must not lead out of the directory, whatever lies in it.
func TestDirStaysInside(t *testing.T) {
	ctx := context.Background()
	outside := t.TempDir()
	dir := t.TempDir()
	if err := os.Symlink(outside, filepath.Join(dir, "vcpu")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(outside, "target"), filepath.Join(dir, "memory")); err != nil {
		t.Fatal(err)
	}
	table, src := snapshot(t, map[string][]byte{"vcpu/0": []byte("x")})
	if _, err := Dir(ctx, table, src, dir, DirOptions{ChunkSize: chunkSize, Force: true}); err == nil {
		t.Error("a directory that is a link outside was followed")
	}
	table, src = snapshot(t, map[string][]byte{"memory": []byte("y")})
	if _, err := Dir(ctx, table, src, dir, DirOptions{ChunkSize: chunkSize}); !errors.Is(err, ErrExists) {
		t.Errorf("a dangling link is there, too: %v", err)
	}
	if _, err := Dir(ctx, table, src, dir, DirOptions{ChunkSize: chunkSize, Force: true}); err != nil {
		t.Error(err)
	}
	if left, _ := os.ReadDir(outside); len(left) > 0 {
		t.Errorf("%v was written outside", left)
	}
}

// What fails halfway leaves no file that looks complete.
func TestDirFails(t *testing.T) {
	table, src := snapshot(t, map[string][]byte{"memory": memory(1, 1<<20)})
	for id := range src {
		delete(src, id)
		break
	}
	dir := t.TempDir()
	if _, err := Dir(context.Background(), table, src, dir, DirOptions{ChunkSize: chunkSize}); err == nil {
		t.Error("a chunk was missing, and nothing was said")
	}
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("%v is left", left)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	table, src = snapshot(t, map[string][]byte{"memory": memory(1, 1<<20)})
	if _, err := Dir(ctx, table, src, dir, DirOptions{ChunkSize: chunkSize}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// What a restore made goes when it fails, and what was there before stays.
func TestDirFailsHalfway(t *testing.T) {
	streams := map[string][]byte{"a/b/first": memory(1, 1<<20), "old": []byte("y"), "z": []byte("lost")}
	table, src := snapshot(t, streams)
	delete(src, chunker.Sum(streams["z"]))
	holder := t.TempDir()
	dir := filepath.Join(holder, "new", "out")
	opts := DirOptions{ChunkSize: chunkSize, Force: true}
	if _, err := Dir(t.Context(), table, src, dir, opts); err == nil {
		t.Error("a chunk was missing, and nothing was said")
	}
	if left, _ := os.ReadDir(holder); len(left) > 0 {
		t.Errorf("%v is left", left)
	}
	if err := os.MkdirAll(filepath.Join(dir, "a"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"old", "a/other"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Dir(t.Context(), table, src, dir, opts); err == nil {
		t.Error("a chunk was missing, and nothing was said")
	}
	var left []string
	if err := fs.WalkDir(os.DirFS(dir), ".", func(name string, _ fs.DirEntry, err error) error {
		left = append(left, name)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if want := []string{".", "a", "a/other", "old"}; !slices.Equal(left, want) {
		t.Errorf("%v is left, want %v", left, want)
	}
}

// Only files are replaced, never what else has the name of one.
func TestDirKeepsPipes(t *testing.T) {
	table, src := snapshot(t, map[string][]byte{"memory": []byte("y")})
	dir := t.TempDir()
	pipe := filepath.Join(dir, "memory")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Dir(t.Context(), table, src, dir, DirOptions{ChunkSize: chunkSize, Force: true}); err == nil {
		t.Error("a pipe was replaced")
	}
	if info, err := os.Lstat(pipe); err != nil || info.Mode().Type() != fs.ModeNamedPipe {
		t.Errorf("the pipe is %v now, %v", info, err)
	}
}

// buffer is an io.WriterAt over guest memory.
type buffer []byte

func (b buffer) WriteAt(p []byte, off int64) (int, error) { return copy(b[off:], p), nil }

func TestStreamAndReader(t *testing.T) {
	ctx := context.Background()
	want := memory(3, 40<<20+123)
	table, src := snapshot(t, map[string][]byte{"memory": want})
	s, err := table.Stream("memory")
	if err != nil {
		t.Fatal(err)
	}
	opts := Options{ChunkSize: chunkSize}
	fresh := make(buffer, len(want))
	if _, err := Stream(ctx, s, src, fresh, opts); err != nil || !bytes.Equal(fresh, want) {
		t.Errorf("a fresh buffer came back different: %v", err)
	}
	used := buffer(bytes.Repeat([]byte{0xaa}, len(want)))
	opts.Zeros = true
	done := int64(0)
	opts.Progress = func(n int64) { done += n }
	if _, err := Stream(ctx, s, src, used, opts); err != nil || !bytes.Equal(used, want) {
		t.Errorf("a used buffer came back different: %v", err)
	}
	if done != int64(len(want)) {
		t.Errorf("progress went to %d of %d", done, len(want))
	}
	var out bytes.Buffer
	if _, err := Sequential(ctx, s, src, &out, Options{ChunkSize: chunkSize}); err != nil || !bytes.Equal(out.Bytes(), want) {
		t.Errorf("the sequence came back different: %v", err)
	}
	r := NewReader(s, src, chunkSize)
	rnd := rand.New(rand.NewPCG(1, 1))
	for range 200 {
		off := rnd.IntN(len(want))
		p := make([]byte, rnd.IntN(20000))
		n, err := r.ReadAt(p, int64(off))
		if wantN := min(len(p), len(want)-off); n != wantN || (err != nil) != (wantN < len(p)) || !bytes.Equal(p[:n], want[off:off+n]) {
			t.Fatalf("ReadAt(%d bytes, %d): %d, %v", len(p), off, n, err)
		}
	}
	if err := iotest.TestReader(io.NewSectionReader(r, 0, 10000), want[:10000]); err != nil {
		t.Error(err)
	}
}
