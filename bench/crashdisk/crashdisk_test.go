package crashdisk

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

const seeds = 80

func newDisk(t *testing.T, foreign ...string) (*Disk, string) {
	t.Helper()
	root := t.TempDir()
	d, err := New(root, foreign...)
	if err != nil {
		t.Fatal(err)
	}
	return d, root
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// put writes a file, and says what to do with it.
func put(t *testing.T, d *Disk, name string, b []byte, sync, syncDir bool) {
	t.Helper()
	f, err := d.Create(filepath.Dir(name))
	must(t, err)
	_, err = f.Write(b)
	must(t, err)
	if sync {
		must(t, f.Sync())
	}
	must(t, f.Close(), d.Rename(f.Name(), name))
	if syncDir {
		must(t, d.SyncDir(filepath.Dir(name)))
	}
}

// crashes returns, for each seed, the files that are left and their contents.
func crashes(t *testing.T, d *Disk) []map[string]string {
	t.Helper()
	var images []map[string]string
	for seed := range uint64(seeds) {
		dir := t.TempDir()
		must(t, d.Crash(dir, seed))
		files := map[string]string{}
		must(t, filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
			if err != nil || name == dir {
				return err
			}
			rel, _ := filepath.Rel(dir, name)
			if strings.HasPrefix(e.Name(), ".tmp-") {
				rel = filepath.Join(filepath.Dir(rel), ".tmp-")
			}
			if e.IsDir() {
				files[rel+"/"] = ""
				return nil
			}
			b, err := os.ReadFile(name)
			files[rel] = string(b)
			return err
		}))
		images = append(images, files)
	}
	return images
}

// outcomes returns what becomes of one file, and how often.
func outcomes(images []map[string]string, name string) map[string]int {
	out := map[string]int{}
	for _, files := range images {
		b, ok := files[name]
		if !ok {
			b = "nothing"
		}
		out[b]++
	}
	return out
}

func TestDurable(t *testing.T) {
	d, root := newDisk(t)
	must(t, d.Mkdir(root+"/a"), d.SyncDir(root))
	put(t, d, root+"/a/x", []byte("one"), true, true)
	if got := outcomes(crashes(t, d), "a/x"); got["one"] != seeds {
		t.Errorf("what was synced is %v", got)
	}
	put(t, d, root+"/a/x", []byte("two"), true, false)
	if got := outcomes(crashes(t, d), "a/x"); got["one"] == 0 || got["two"] == 0 || len(got) != 2 {
		t.Errorf("replaced, directory not synced: %v", got)
	}
	must(t, d.SyncDir(root+"/a"), d.Remove(root+"/a/x"))
	images := crashes(t, d)
	if got := outcomes(images, "a/x"); got["two"] == 0 || got["nothing"] == 0 || len(got) != 2 {
		t.Errorf("removed, directory not synced: %v", got)
	}
	must(t, d.SyncDir(root+"/a"))
	if got := outcomes(crashes(t, d), "a/x"); got["nothing"] != seeds {
		t.Errorf("removed: %v", got)
	}
	again, err := New(root)
	must(t, err)
	if got := outcomes(crashes(t, again), "a/"); got[""] != seeds {
		t.Errorf("what was there before: %v", got)
	}
}

func TestUnsynced(t *testing.T) {
	d, root := newDisk(t)
	data := bytes.Repeat([]byte("0123456789abcdef"), 200)
	put(t, d, root+"/x", data, false, true)
	torn, whole, empty := 0, 0, 0
	for b, n := range outcomes(crashes(t, d), "x") {
		switch at := len(strings.TrimRight(b, "\x00")); {
		case b == "nothing":
			t.Errorf("its name is lost %d times", n)
		case b == string(data):
			whole += n
		case at == 0:
			empty += n
		case b[:at] == string(data[:at]) && at%sector == 0:
			torn += n
		default:
			t.Errorf("%d bytes of %d, not torn at a sector", at, len(data))
		}
	}
	if torn == 0 || whole == 0 || empty == 0 {
		t.Errorf("torn %d, whole %d, empty %d", torn, whole, empty)
	}
	// The two names of a rename that was not synced are independent.
	d, root = newDisk(t)
	f, err := d.Create(root)
	must(t, err)
	_, err = f.Write([]byte("x"))
	must(t, err, f.Sync(), d.SyncDir(root), d.Rename(f.Name(), root+"/x"))
	both := map[[2]bool]int{}
	for _, files := range crashes(t, d) {
		_, old := files[".tmp-"]
		_, moved := files["x"]
		both[[2]bool{old, moved}]++
	}
	if len(both) != 4 {
		t.Errorf("old name, new name: %v", both)
	}
}

// What a failed sync should have made durable is lost for good, what was written after it is not.
func TestFailedSync(t *testing.T) {
	d, root := newDisk(t)
	f, err := d.Create(root)
	must(t, err)
	_, err = f.Write([]byte("kept"))
	must(t, err, f.Sync())
	_, err = f.Write([]byte("lost"))
	must(t, err)
	d.FailAt(d.Ops()+1, syscall.EIO)
	var path *fs.PathError
	if err := f.Sync(); !errors.Is(err, syscall.EIO) || !errors.As(err, &path) {
		t.Fatalf("the sync: %v", err)
	}
	must(t, f.Sync())
	_, err = f.Write([]byte("more"))
	must(t, err, f.Sync(), d.Rename(f.Name(), root+"/x"), d.SyncDir(root))
	if got := outcomes(crashes(t, d), "x"); got["kept\x00\x00\x00\x00more"] != seeds {
		t.Errorf("%v", got)
	}
	b := make([]byte, 12)
	if _, err := f.ReadAt(b, 0); err != nil || string(b) != "keptlostmore" {
		t.Errorf("before the loss of power it reads %q, %v", b, err)
	}
}

func TestFailures(t *testing.T) {
	d, root := newDisk(t)
	put(t, d, root+"/x", []byte("x"), true, true)
	d.FailFrom(0, syscall.ENOSPC, Write, Create)
	if _, err := d.Create(root); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("create: %v", err)
	}
	must(t, d.Rename(root+"/x", root+"/y"), d.SyncDir(root))
	d.FailFrom(0, syscall.EIO, Rename)
	if err := d.Rename(root+"/y", root+"/z"); !errors.Is(err, syscall.EIO) {
		t.Errorf("rename: %v", err)
	}
	d.Hook(nil)
	must(t, d.Mkdir(root+"/dir"))
	f, err := d.Create(root + "/dir")
	must(t, err)
	d.FailFrom(0, syscall.ENOSPC, Write)
	if n, err := f.Write([]byte("1234")); n != 2 || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("a write that fails: %d, %v", n, err)
	}
	d.PowerOffAt(d.Ops() + 2)
	must(t, d.Remove(root+"/y"))
	for range 3 {
		if err := d.SyncDir(root); !errors.Is(err, ErrPower) {
			t.Errorf("without power: %v", err)
		}
	}
	if n, err := f.Write([]byte("1234")); n != 0 || !errors.Is(err, ErrPower) {
		t.Errorf("without power: %d, %v", n, err)
	}
	if got := outcomes(crashes(t, d), "y"); got["x"] == 0 || got["nothing"] == 0 {
		t.Errorf("a removal before the power was lost: %v", got)
	}
}

func TestForeign(t *testing.T) {
	d, root := newDisk(t, "badger")
	must(t, d.Mkdir(root+"/index"), d.Mkdir(root+"/index/badger"), d.SyncDir(root))
	data := strings.Repeat("z", 5000)
	must(t, os.WriteFile(root+"/index/badger/000001.vlog", []byte(data), 0o600))
	got := outcomes(crashes(t, d), "index/badger/000001.vlog")
	torn := 0
	for b := range got {
		if b != data && b != "nothing" && strings.HasPrefix(data, b) {
			torn++
		}
	}
	if got[data] == 0 || got["nothing"] == 0 || torn == 0 || torn != len(got)-2 {
		t.Errorf("%d outcomes, %d torn", len(got), torn)
	}
}
