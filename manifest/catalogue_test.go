package manifest

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/arcboxlabs/arcstore/store/disk"
)

func newEntry(id string, created int64) *Entry {
	return &Entry{ID: id, TargetID: "web-1", TargetType: Container, Created: time.Unix(created, 0).UTC(), State: Ready, Manifest: Digest{1}}
}

func idsOf(entries []*Entry) string {
	var ids []string
	for _, e := range entries {
		ids = append(ids, e.ID)
	}
	return strings.Join(ids, " ")
}

func TestCatalogue(t *testing.T) {
	ctx := context.Background()
	c := OpenCatalogue(filepath.Join(t.TempDir(), "new", "snapshots"), nil)
	if entries, err := c.List(ctx); err != nil || len(entries) != 0 {
		t.Fatalf("before anything: %v, %v", entries, err)
	}
	if n, err := c.RemoveTemporary(); n != 0 || err != nil {
		t.Fatalf("before anything: %d leftovers, %v", n, err)
	}
	if _, err := c.Get(ctx, "a"); !errors.Is(err, ErrNotFound) {
		t.Fatalf("before anything: %v", err)
	}
	for _, e := range []*Entry{newEntry("late", 9), newEntry("b", 5), newEntry("a", 5), newEntry("early", 1)} {
		if err := c.Put(ctx, e, true); err != nil {
			t.Fatal(err)
		}
	}
	creating := newEntry("c", 5)
	creating.State, creating.Manifest = Creating, Digest{}
	if err := c.Put(ctx, creating, false); err != nil {
		t.Fatal(err)
	}
	entries, err := c.List(ctx)
	if err != nil || idsOf(entries) != "early a b c late" {
		t.Errorf("the entries are %s, %v", idsOf(entries), err)
	}
	got, err := c.Get(ctx, "c")
	if err != nil || !reflect.DeepEqual(got, creating) {
		t.Errorf("%+v, %v, want %+v", got, err, creating)
	}
	want := goldenEntry(Digest{3})
	for _, durable := range []bool{false, true} {
		if err := c.Put(ctx, want, durable); err != nil {
			t.Fatal(err)
		}
		if got, err := c.Get(ctx, want.ID); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%+v, %v, want %+v", got, err, want)
		}
	}
	// One that is not durable does not hide one that is.
	other := *want
	other.Name = "other"
	if err := c.Put(ctx, &other, false); err != nil {
		t.Fatal(err)
	}
	if got, err := c.Get(ctx, want.ID); err != nil || got.Name != want.Name {
		t.Errorf("%+v, %v, want %+v", got, err, want)
	}
	if n, err := c.RemoveTemporary(); n != 1 || err != nil {
		t.Errorf("a hidden entry: %d leftovers, %v", n, err)
	}
	for _, id := range []string{"c", want.ID} {
		if err := c.Delete(ctx, id); err != nil {
			t.Error(err)
		}
		if err := c.Delete(ctx, id); !errors.Is(err, ErrNotFound) {
			t.Errorf("deleted twice: %v", err)
		}
		if _, err := c.Get(ctx, id); !errors.Is(err, ErrNotFound) {
			t.Errorf("deleted: %v", err)
		}
	}
	for _, id := range []string{"", "../a", ".tmp-1", "a b"} {
		if _, err := c.Get(ctx, id); !errors.Is(err, ErrInvalid) {
			t.Errorf("get %q: %v", id, err)
		}
		if err := c.Delete(ctx, id); !errors.Is(err, ErrInvalid) {
			t.Errorf("delete %q: %v", id, err)
		}
	}
	canceled, cancel := context.WithCancel(ctx)
	cancel()
	_, gerr := c.Get(canceled, "a")
	_, lerr := c.List(canceled)
	for _, err := range []error{gerr, lerr, c.Delete(canceled, "a"), c.Put(canceled, want, true)} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("canceled: %v", err)
		}
	}
}

// An entry that cannot be read does not hide the others.
func TestCatalogueDamage(t *testing.T) {
	ctx := context.Background()
	c := OpenCatalogue(t.TempDir(), nil)
	for _, id := range []string{"a", "b", "c", "d"} {
		if err := c.Put(ctx, newEntry(id, 1), true); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(c.path("a", entrySuffix))
	if err != nil {
		t.Fatal(err)
	}
	write := func(name string, b []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(c.dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("b.json", nil)
	write("c.json", text) // of another snapshot
	write("notes.txt", text)
	write(".hidden.json", text)
	write(disk.TempPrefix+"1", text)
	write("torn.pending", make([]byte, len(text)))
	entries, err := c.List(ctx)
	if idsOf(entries) != "a d" || !errors.Is(err, ErrCorrupt) {
		t.Errorf("the entries are %s, %v", idsOf(entries), err)
	}
	bad := CorruptErrors(err)
	if len(bad) != 2 || bad[0].File != "b.json" || bad[1].File != "c.json" {
		t.Errorf("damaged are %v", bad)
	}
	if _, err := c.Get(ctx, "torn"); !errors.Is(err, ErrNotFound) {
		t.Errorf("an entry that a loss of power cut off: %v", err)
	}
	if n, err := c.RemoveTemporary(); n != 2 || err != nil {
		t.Errorf("%d leftovers, %v", n, err)
	}
	// One of a newer format is listed as such, and is no damage.
	newer := bytes.Replace(text[:len(text)-sumSize], []byte(`"format": 1`), []byte(`"format": 2`), 1)
	write("b.json", append(newer, checksumLine(newer)...))
	entries, err = c.List(ctx)
	if idsOf(entries) != "a d" || !errors.Is(err, ErrCorrupt) || !errors.Is(err, ErrVersion) || CorruptErrors(err) != nil {
		t.Errorf("the entries are %s, %v", idsOf(entries), err)
	}
	// The device's errors are neither, and end it.
	c.disk = &failingOpens{disk.OS}
	if entries, err := c.List(ctx); entries != nil || !errors.Is(err, errDisk) || errors.Is(err, ErrCorrupt) {
		t.Errorf("%v, %v", entries, err)
	}
}

type failingOpens struct{ disk.Disk }

func (failingOpens) Open(string) (disk.File, error) { return nil, errDisk }

func TestEntryLimits(t *testing.T) {
	c := OpenCatalogue(t.TempDir(), nil)
	for name, change := range map[string]func(e *Entry){
		"no ID":              func(e *Entry) { e.ID = "" },
		"an escaping ID":     func(e *Entry) { e.ID = "../x" },
		"a bad parent":       func(e *Entry) { e.Parent = "a/b" },
		"no target":          func(e *Entry) { e.TargetID = "" },
		"a bad target":       func(e *Entry) { e.TargetID = "a//b" },
		"no target type":     func(e *Entry) { e.TargetType = "" },
		"no state":           func(e *Entry) { e.State = "" },
		"an unknown state":   func(e *Entry) { e.State = "done" },
		"no manifest":        func(e *Entry) { e.Manifest = Digest{} },
		"a negative size":    func(e *Entry) { e.Size = -1 },
		"no text":            func(e *Entry) { e.Description = "\xff" },
		"labels of no text":  func(e *Entry) { e.Labels = map[string]string{"\xff": ""} },
		"packs of no text":   func(e *Entry) { e.Packs = []string{"\xff"} },
		"an impossible year": func(e *Entry) { e.Created = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC) },
	} {
		e := newEntry("a", 1)
		change(e)
		if err := c.Put(context.Background(), e, false); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, limit := range []int{500, 5000} {
		e := newEntry("a", 1)
		e.Description = strings.Repeat("x", 1000)
		if _, err := e.encodeWithin(limit); errors.Is(err, ErrInvalid) != (limit == 500) {
			t.Errorf("an entry of a kilobyte within %d bytes: %v", limit, err)
		}
	}
	if names, err := c.names(); err != nil || len(names) > 0 {
		t.Errorf("refused entries left %v, %v", names, err)
	}
	if err := os.WriteFile(c.path("a", entrySuffix), make([]byte, 10), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(c.path("a", entrySuffix), maxEntry+1); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Get(context.Background(), "a"); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a file that is too large: %v", err)
	}
}

// A reader beside a writer finds an entry at every moment of its life.
func TestCatalogueBesideWriter(t *testing.T) {
	ctx := context.Background()
	c := OpenCatalogue(t.TempDir(), nil)
	e := newEntry("a", 1)
	if err := c.Put(ctx, e, false); err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	stop := make(chan struct{})
	group.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if _, err := c.Get(ctx, "a"); err != nil {
				t.Error(err)
				return
			}
			if entries, err := c.List(ctx); err != nil || len(entries) != 1 {
				t.Errorf("%v, %v", entries, err)
				return
			}
		}
	})
	for range 50 {
		for _, durable := range []bool{false, true} {
			e := *e
			if err := c.Put(ctx, &e, durable); err != nil {
				t.Fatal(err)
			}
		}
	}
	close(stop)
	group.Wait()
}

func TestNewID(t *testing.T) {
	a, b := NewID(), NewID()
	if a == b || len(a) != 32 || ValidID(a) != nil || strings.Trim(a, "0123456789abcdef") != "" {
		t.Errorf("%s, %s", a, b)
	}
}

func TestCorruptErrors(t *testing.T) {
	a, b := &CorruptError{File: "a", Why: "x"}, &CorruptError{File: "b", Offset: 7, Why: "y"}
	for _, test := range []struct {
		err  error
		want []*CorruptError
	}{
		{nil, nil},
		{a, []*CorruptError{a}},
		{errors.Join(a, b), []*CorruptError{a, b}},
		{errors.Join(a, errDisk), nil},
		{errDisk, nil},
	} {
		if got := CorruptErrors(test.err); !slices.Equal(got, test.want) {
			t.Errorf("%v: %v, want %v", test.err, got, test.want)
		}
	}
	if text := b.Error(); text != "manifest: b at byte 7: data is damaged: y" {
		t.Error(text)
	}
}
