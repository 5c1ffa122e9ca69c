package arcstore

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/arcboxlabs/arcstore/capture"
	"github.com/arcboxlabs/arcstore/manifest"
	"github.com/arcboxlabs/arcstore/remote"
	"github.com/arcboxlabs/arcstore/store/crypt"
	"github.com/arcboxlabs/arcstore/store/disk"
)

// memoryBucket is a bucket in memory.
type memoryBucket struct {
	mu       sync.Mutex
	objects  map[string][]byte
	requests map[string]int
	bytes    int64 // put
}

func newMemoryBucket() *memoryBucket {
	return &memoryBucket{objects: make(map[string][]byte), requests: make(map[string]int)}
}

func (m *memoryBucket) count(kind string) func() {
	m.mu.Lock()
	m.requests[kind]++
	return m.mu.Unlock
}

func (m *memoryBucket) Put(_ context.Context, key string, body io.ReaderAt, size int64) error {
	b, err := io.ReadAll(io.NewSectionReader(body, 0, size))
	if err != nil {
		return err
	}
	defer m.count("put")()
	if m.objects[key] != nil {
		return remote.ErrObjectExists
	}
	m.objects[key] = b
	m.bytes += size
	return nil
}

func (m *memoryBucket) Read(_ context.Context, key string, _ int64) ([]byte, error) {
	defer m.count("get")()
	if m.objects[key] == nil {
		return nil, remote.ErrNoObject
	}
	return bytes.Clone(m.objects[key]), nil
}

func (m *memoryBucket) ReadAt(_ context.Context, key string, p []byte, off int64) error {
	defer m.count("get range")()
	if m.objects[key] == nil {
		return remote.ErrNoObject
	}
	copy(p, m.objects[key][off:])
	return nil
}

func (m *memoryBucket) List(_ context.Context, prefix string, visit func(remote.Object) error) error {
	defer m.count("list")()
	var keys []string
	for key := range m.objects {
		if strings.HasPrefix(key, prefix) {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	for _, key := range keys {
		if err := visit(remote.Object{Key: key, Size: int64(len(m.objects[key]))}); err != nil {
			return err
		}
	}
	return nil
}

func (m *memoryBucket) Delete(_ context.Context, keys ...string) error {
	defer m.count("delete")()
	for _, key := range keys {
		delete(m.objects, key)
	}
	return nil
}

func TestPushPull(t *testing.T) {
	t.Run("plain", func(t *testing.T) { pushPull(t, false) })
	t.Run("encrypted", func(t *testing.T) { pushPull(t, true) })
}

func pushPull(t *testing.T, encrypted bool) {
	ctx := context.Background()
	bucket := newMemoryBucket()
	memory := make([]byte, 24<<20)
	r := rand.NewChaCha8([32]byte{1})
	r.Read(memory[:16<<20])
	var key *crypt.Key
	var slots []crypt.Slot
	if encrypted {
		key = crypt.NewKey()
		slot, err := key.NewSlot(testSecret(), "")
		if err != nil {
			t.Fatal(err)
		}
		slots = append(slots, slot)
	}
	newHost := func() *Manager {
		dir := filepath.Join(t.TempDir(), "store")
		if err := initWithKey(disk.OS, dir, &InitOptions{}, key, slots); err != nil {
			t.Fatal(err)
		}
		return openManager(t, dir)
	}
	connect := func(m *Manager) *Remote {
		r, err := OpenBucket(ctx, bucket, &RemoteOptions{CacheDir: filepath.Join(m.dir, remotesName, "b"), key: m.store.Key()})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	create := func(m *Manager) *Snapshot {
		s, err := m.CreateVM(ctx, "web", &VM{Memory: capture.Bytes(memory)}, nil)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	a, b := newHost(), newHost()
	first := create(a)
	r.Read(memory[1<<20 : 2<<20])
	second := create(a)
	other := create(b)
	push := func(m *Manager) *PushReport {
		r := connect(m)
		defer r.Close()
		clear(bucket.requests)
		before := bucket.bytes
		report, err := r.Push(ctx, m, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%+v, %d bytes put, %v", report, bucket.bytes-before, bucket.requests)
		return report
	}
	if got := push(a); len(got.Pushed) != 2 {
		t.Error("not both were pushed")
	}
	if got := push(a); len(got.Present) != 2 || got.Bytes != 0 {
		t.Error("a second push sends something")
	}
	before := bucket.bytes
	if push(b); bucket.bytes-before > 1<<20 {
		t.Error("the second host sent what was there")
	}
	c := newHost()
	from := connect(c)
	defer from.Close()
	clear(bucket.requests)
	var out bytes.Buffer
	if _, err := from.Snapshots.RestoreStream(ctx, other.ID, manifest.MemoryStream, &out, nil); err != nil {
		t.Fatal(err)
	}
	t.Logf("restore from afar: %v", bucket.requests)
	if !bytes.Equal(out.Bytes(), memory) {
		t.Error("restored from afar, it differs")
	}
	clear(bucket.requests)
	coldStart(t, bucket, c.store.Key(), second.ID, memory)
	clear(bucket.requests)
	pulled, err := c.Pull(ctx, from, []string{second.ID, first.ID}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("pull: %+v, %v", pulled, bucket.requests)
	out.Reset()
	if _, err := c.RestoreStream(ctx, second.ID, manifest.MemoryStream, &out, nil); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(out.Bytes(), memory) {
		t.Error("pulled, it differs")
	}
	report, err := from.Snapshots.Verify(ctx, &VerifyOptions{Data: true})
	if err != nil || len(report.Damage) > 0 {
		t.Errorf("verify: %+v, %v", report, err)
	}
}

// coldStart reads the first byte of a guest's memory with a handful of requests, and nothing a second time.
func coldStart(t *testing.T, bucket *memoryBucket, key *crypt.Key, id string, want []byte) {
	t.Helper()
	ctx := context.Background()
	r, err := OpenBucket(ctx, bucket, &RemoteOptions{key: key})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	s, err := r.Snapshots.OpenSnapshot(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	memory, err := s.Stream(manifest.MemoryStream)
	if err != nil {
		t.Fatal(err)
	}
	sum := func() (n int) {
		bucket.mu.Lock()
		defer bucket.mu.Unlock()
		for _, k := range bucket.requests {
			n += k
		}
		return n
	}
	for range 2 {
		first := make([]byte, 1)
		if _, err := memory.ReadAt(first, 0); err != nil || first[0] != want[0] {
			t.Fatalf("the first byte is %d, not %d: %v", first[0], want[0], err)
		}
	}
	if n := sum(); n > 8 {
		t.Errorf("the first byte took %d requests: %v", n, bucket.requests)
	}
}
