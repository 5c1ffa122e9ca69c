package arcstore

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/arcboxlabs/arcstore/capture"
	"github.com/arcboxlabs/arcstore/chunker"
	"github.com/arcboxlabs/arcstore/manifest"
)

// tells is what must not leave the host in the clear: content, names, labels.
var tells = []string{"registers of a", "one one one", "vmstate", "target-name", "snapshot-name", "a description", "a label", "its value"}

// encryptedHost makes a store with a snapshot full of what tells something.
func encryptedHost(t *testing.T) (*Manager, *Snapshot, []byte) {
	t.Helper()
	m := newManager(t, &InitOptions{Secret: testSecret()})
	page := bytes.Repeat([]byte("one "), 1024)
	memory := slices.Concat(page, make([]byte, 8192), bytes.Repeat([]byte("two "), 1024), page)
	vm := &VM{Memory: capture.Bytes(memory), State: map[string]Source{"vmstate": capture.Bytes([]byte("registers of a"))}}
	e := create(t, m, "target-name", vm, &CreateOptions{Name: "snapshot-name", Description: "a description", Labels: map[string]string{"a label": "its value"}})
	return m, e, memory
}

// What an encrypted store writes of snapshots' content and structure does not show on disk, nor chunk IDs that others could compute.
func TestEncryptedStoreDoesNotTell(t *testing.T) {
	m, _, memory := encryptedHost(t)
	id := chunker.Sum(memory[:4096])
	err := filepath.WalkDir(m.dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(name)
		rel, _ := filepath.Rel(m.dir, name)
		for _, tell := range tells {
			if bytes.Contains(b, []byte(tell)) && !strings.HasPrefix(rel, "snapshots") { // the catalogue stays in the clear here
				t.Errorf("%s tells %q", rel, tell)
			}
		}
		if bytes.Contains(b, id[:]) {
			t.Errorf("%s has the ID that anybody can compute of a page", rel)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Nothing in an encrypted bucket tells anything, and whatever is done to an object is noticed.
func TestEncryptedBucket(t *testing.T) {
	ctx := context.Background()
	m, e, memory := encryptedHost(t)
	bucket := newMemoryBucket()
	connect := func(key func() (Secret, error)) (*Remote, error) {
		return OpenBucket(ctx, bucket, &RemoteOptions{Secret: key})
	}
	r, err := OpenBucket(ctx, bucket, &RemoteOptions{key: m.store.Key()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Push(ctx, m, nil, nil); err != nil {
		t.Fatal(err)
	}
	second := create(t, m, "target-name", &VM{Memory: capture.Bytes(bytes.Repeat([]byte("new "), 5000))}, nil)
	if _, err := r.Push(ctx, m, nil, nil); err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	sound := make(map[string][]byte)
	for key, b := range bucket.objects {
		sound[key] = b
		for _, tell := range tells {
			if bytes.Contains(b, []byte(tell)) {
				t.Errorf("%s tells %q", key, tell)
			}
		}
	}
	// read reads all that there is: it must come out as it went in, or not at all.
	read := func() error {
		r, err := connect(knownSecret)
		if err != nil {
			return err
		}
		defer r.Close()
		list, err := r.Snapshots.List(ctx, "")
		if err != nil {
			return err
		}
		for _, want := range []*Snapshot{e, second} {
			if !slices.ContainsFunc(list, func(s *Snapshot) bool {
				return s.ID == want.ID && s.TargetID == want.TargetID && s.State == manifest.Ready
			}) {
				return errors.New("a snapshot is not listed as it was")
			}
		}
		var out bytes.Buffer
		if _, err := r.Snapshots.RestoreStream(ctx, e.ID, manifest.MemoryStream, &out, nil); err != nil {
			return err
		}
		if !bytes.Equal(out.Bytes(), memory) {
			t.Error("other bytes came back")
		}
		report, err := r.Snapshots.Verify(ctx, &VerifyOptions{Data: true})
		if err == nil && len(report.Damage) > 0 {
			err = errors.New(report.Damage[0].Why)
		}
		if err != nil {
			return err
		}
		// A host that takes part reads the rest.
		host, err := OpenBucket(ctx, bucket, &RemoteOptions{key: m.store.Key()})
		if err != nil {
			return err
		}
		defer host.Close()
		_, err = host.Push(ctx, m, nil, nil)
		return err
	}
	if err := read(); err != nil {
		t.Fatalf("untouched: %v", err)
	}
	restore := func() {
		clear(bucket.objects)
		for key, b := range sound {
			bucket.objects[key] = b
		}
	}
	kind := func(key string) string { return key[:strings.IndexAny(key+"/", "/")] }
	for key, b := range sound {
		if kind(key) == "keys" {
			continue // the other one opens it
		}
		for i := 0; i < len(b); i += 1 + len(b)/40 {
			bad := bytes.Clone(b)
			bad[i] ^= 4
			bucket.objects[key] = bad
			if err := read(); err == nil {
				t.Errorf("byte %d of %s was changed: nobody noticed", i, key)
			}
			restore()
		}
		bucket.objects[key] = b[:len(b)-1]
		if err := read(); err == nil {
			t.Errorf("%s was cut short: nobody noticed", key)
		}
		restore()
		for other, o := range sound {
			if other != key && kind(other) == kind(key) {
				bucket.objects[key] = o
				if err := read(); err == nil {
					t.Errorf("%s was replaced by %s: nobody noticed", key, other)
				}
				restore()
			}
		}
	}
	if _, err := connect(nil); !errors.Is(err, ErrLocked) {
		t.Errorf("without a secret: %v", err)
	}
	if _, err := connect(func() (Secret, error) { return Passphrase("another one"), nil }); !errors.Is(err, ErrWrongSecret) {
		t.Errorf("with a wrong secret: %v", err)
	}
	for name, opts := range map[string]*InitOptions{"plain": nil, "another key": {Secret: testSecret()}} {
		other := newManager(t, opts)
		create(t, other, "x", &VM{Memory: capture.Bytes(memory)}, nil)
		r, err := OpenBucket(ctx, bucket, &RemoteOptions{key: other.store.Key(), Secret: knownSecret})
		if err == nil {
			_, err = r.Push(ctx, other, nil, nil)
			r.Close()
		}
		if !errors.Is(err, ErrInvalid) {
			t.Errorf("push from a store that is %s: %v", name, err)
		}
	}
	if !maps.EqualFunc(bucket.objects, sound, bytes.Equal) {
		t.Error("what was refused changed the bucket")
	}
}

func TestKeys(t *testing.T) {
	ctx := context.Background()
	m, e, memory := encryptedHost(t)
	keys := m.Keys()
	if _, err := keys.Remove(ctx, ""); !errors.Is(err, ErrInvalid) {
		t.Errorf("remove the last: %v", err)
	}
	slots, err := keys.List(ctx)
	if err != nil || len(slots) != 1 {
		t.Fatalf("%v, %v", slots, err)
	}
	if _, err := keys.Remove(ctx, slots[0].ID); !errors.Is(err, ErrInvalid) {
		t.Errorf("remove the last: %v", err)
	}
	if _, err := keys.Add(ctx, Passphrase("short"), ""); !errors.Is(err, ErrInvalid) {
		t.Errorf("add a short passphrase: %v", err)
	}
	pass := func() (Secret, error) { return Passphrase("correct horse"), nil }
	secret, _ := pass()
	if _, err := keys.Add(ctx, secret, "a horse"); err != nil {
		t.Fatal(err)
	}
	if err := m.SetCompression(ctx, "zstd"); err != nil { // writes the config again
		t.Fatal(err)
	}
	if _, err := keys.Remove(ctx, slots[0].ID[:6]); err != nil {
		t.Fatal(err)
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	for name, secret := range map[string]func() (Secret, error){"none": nil, "the removed one": knownSecret} {
		if _, err := Open(ctx, m.dir, &Options{ReadOnly: true, Secret: secret}); !errors.Is(err, ErrLocked) && !errors.Is(err, ErrWrongSecret) {
			t.Errorf("opened with %s: %v", name, err)
		}
	}
	m, err = Open(ctx, m.dir, &Options{Secret: pass})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	var out bytes.Buffer
	if _, err := m.RestoreStream(ctx, e.ID, manifest.MemoryStream, &out, nil); err != nil || !bytes.Equal(out.Bytes(), memory) {
		t.Errorf("restored with another key: %v", err)
	}
	if _, err := newManager(t, nil).Keys().List(ctx); !errors.Is(err, ErrPlain) {
		t.Errorf("keys of a plain store: %v", err)
	}
}
