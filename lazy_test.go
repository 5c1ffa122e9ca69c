package arcstore

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"

	"github.com/arcboxlabs/arcstore/capture"
	"github.com/arcboxlabs/arcstore/manifest"
)

// What is read here and there is right, whatever the chunk size, the compression and the increments, and from many goroutines.
func TestLazyStream(t *testing.T) {
	ctx := context.Background()
	for name, init := range map[string]*InitOptions{"plain": nil, "zstd": {Compression: "zstd"}, "large chunks": {ChunkSize: 64 << 10}, "encrypted": {Secret: testSecret()}} {
		t.Run(name, func(t *testing.T) {
			m := newManager(t, init)
			m.SetCache(1 << 20)
			mem := newRAM(3, 8<<20+1234)
			var s *Snapshot
			for range 4 {
				var err error
				if s, err = m.CreateVM(ctx, "vm", &VM{Memory: capture.Bytes(mem.data)}, nil); err != nil {
					t.Fatal(err)
				}
				for range 100 {
					mem.data[mem.r.IntN(len(mem.data))]++
				}
			}
			want := new(bytes.Buffer)
			if _, err := m.RestoreStream(ctx, s.ID, manifest.MemoryStream, want, nil); err != nil {
				t.Fatal(err)
			}
			l, err := m.OpenLazy(ctx, s.ID)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			stream, err := l.Stream(manifest.MemoryStream)
			if err != nil || stream.Size() != int64(want.Len()) {
				t.Fatal(err)
			}
			if _, err := l.Stream("nothing"); !errors.Is(err, ErrNoStream) {
				t.Error(err)
			}
			done := make(chan error, 8)
			for seed := range uint64(8) {
				go func() {
					r := rand.New(rand.NewPCG(seed, 9))
					for range 300 {
						off := r.Int64N(stream.Size())
						b := make([]byte, r.IntN(200<<10))
						n, err := stream.ReadAt(b, off)
						rest := want.Bytes()[off:]
						if n != min(len(b), len(rest)) || !bytes.Equal(b[:n], rest[:n]) || (n < len(b)) != errors.Is(err, io.EOF) {
							done <- errors.Join(errors.New("what was read is wrong"), err)
							return
						}
					}
					done <- nil
				}()
			}
			for range 8 {
				if err := <-done; err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// From a bucket, a page takes a handful of requests and few bytes, and what was recorded of guests comes along.
func TestLazyBucket(t *testing.T) {
	ctx := context.Background()
	for name, init := range map[string]*InitOptions{"plain": nil, "encrypted": {Secret: testSecret()}} {
		t.Run(name, func(t *testing.T) {
			m := newManager(t, init)
			mem := newRAM(4, 64<<20)
			s, err := m.CreateVM(ctx, "vm", &VM{Memory: capture.Bytes(mem.data)}, nil)
			if err != nil {
				t.Fatal(err)
			}
			recorded := &WorkingSet{Size: int64(len(mem.data)), Pages: []uint32{9, 3, 4000}}
			if err := m.working.Put(ctx, s.ID, recorded); err != nil {
				t.Fatal(err)
			}
			bucket := newMemoryBucket()
			push := func() *Remote {
				r, err := OpenBucket(ctx, bucket, &RemoteOptions{Secret: knownSecret, key: m.store.Key()})
				if err != nil {
					t.Fatal(err)
				}
				if _, err := r.Push(ctx, m, nil, nil); err != nil {
					t.Fatal(err)
				}
				return r
			}
			push().Close()
			push().Close() // nothing new
			sets := func() (n int) {
				for key := range bucket.objects {
					if ok, _ := filepath.Match("working-sets/*/*", key); ok {
						n++
					}
				}
				return n
			}
			if sets() != 1 {
				t.Errorf("%d working sets in the bucket", sets())
			}
			r, err := OpenBucket(ctx, bucket, &RemoteOptions{Secret: knownSecret})
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			bucket.requests = make(map[string]int)
			l, err := r.Snapshots.OpenLazy(ctx, s.ID)
			if err != nil {
				t.Fatal(err)
			}
			stream, err := l.Stream(manifest.MemoryStream)
			if err != nil {
				t.Fatal(err)
			}
			b := make([]byte, 4096)
			page := 0
			for at := 0; at < len(mem.data); at += 4096 {
				if mem.data[at+100] != 0 && at > 40<<20 {
					page = at
					break
				}
			}
			if _, err := stream.ReadAt(b, int64(page)); err != nil || !bytes.Equal(b, mem.data[page:page+4096]) {
				t.Fatal(err)
			}
			sum := 0
			for _, n := range bucket.requests {
				sum += n
			}
			if sum > 9 {
				t.Errorf("the first page took %v", bucket.requests)
			}
			all := make([]byte, len(mem.data))
			if _, err := stream.ReadAt(all, 0); err != nil || !bytes.Equal(all, mem.data) {
				t.Error("the memory differs: ", err)
			}
			if w := l.WorkingSet(ctx); w == nil || !slices.Equal(w.Pages, recorded.Pages) {
				t.Errorf("%v", w)
			}
			// A restore from the bucket records, too.
			if err := l.record(ctx, recorded.Size, []uint32{1, 2, 3, 5, 6, 7, 8, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24}); err != nil {
				t.Fatal(err)
			}
			l.Close()
			if sets() != 1 {
				t.Errorf("%d working sets in the bucket", sets())
			}
			other := newManager(t, init)
			if init != nil {
				return // it has another key
			}
			if _, err := other.Pull(ctx, r, []string{s.ID}, nil); err != nil {
				t.Fatal(err)
			}
			if w, err := other.working.Get(ctx, s.ID); err != nil || len(w.Pages) != 0 {
				t.Errorf("what the restore recorded did not come along: %v %v", w, err)
			}
			if _, err := r.Delete(ctx, s.ID); err != nil {
				t.Fatal(err)
			}
			if _, err := r.GC(ctx, nil); err != nil {
				t.Fatal(err)
			}
			if sets() != 0 {
				t.Error("the working set outlives its snapshot")
			}
		})
	}
}
