package capture

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// makeFiles makes files, and links (of names with an arrow), below a directory.
func makeFiles(t *testing.T, base string, files map[string]string) {
	t.Helper()
	for name, content := range files {
		name, link, isLink := strings.Cut(name, " -> ")
		path := filepath.Join(base, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		var err error
		if isLink {
			err = os.Symlink(link, path)
		} else {
			err = os.WriteFile(path, []byte(content), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// Pagemaps of one page each: at 0x1000 in the same images, or in the parent's.
const (
	pagemapHere   = "\x19\x43\x56\x54\x25\x40\x08\x56\x02\x00\x00\x00\x08\x01\x05\x00\x00\x00\x08\x80\x20\x10\x01"
	pagemapParent = "\x19\x43\x56\x54\x25\x40\x08\x56\x02\x00\x00\x00\x08\x01\x07\x00\x00\x00\x08\x80\x20\x10\x01\x18\x01"
)

var onePage = strings.Repeat("x", 4096)

func TestOpenDir(t *testing.T) {
	base := t.TempDir()
	makeFiles(t, base, map[string]string{
		"a/inventory.img": "i", "a/dump.log": "log", "a/core-1.img": "", "a/work/file": "not an image",
		"a/pagemap-1.img": pagemapParent, "a/pages-1.img": "", "a/parent -> ../pre/1": "",
		"pre/1/pagemap-1.img": pagemapParent, "pre/1/pages-1.img": "", "pre/1/parent -> " + filepath.Join(base, "pre/2"): "", "pre/1/odd -> /etc/passwd": "",
		"pre/2/pagemap-1.img": pagemapHere, "pre/2/pages-1.img": onePage, "pre/2/parent -> nowhere": "",
		"link -> a": "",
	})
	for _, dir := range []string{"a", "link"} {
		images, closer, err := OpenDir(filepath.Join(base, dir))
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for name := range images {
			names = append(names, name)
		}
		slices.Sort(names)
		if want := []string{"core-1.img", "dump.log", "inventory.img", "pagemap-1.img", "pages-1.img"}; !slices.Equal(names, want) {
			t.Errorf("files %q, want %q", names, want)
		}
		b := make([]byte, images["pages-1.img"].Size())
		if _, err := images["pages-1.img"].ReadAt(b, 0); err != nil || string(b) != onePage {
			t.Errorf("pages: %d bytes, %v", len(b), err)
		}
		if err := closer.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestOpenDirRefuses(t *testing.T) {
	outside := t.TempDir()
	makeFiles(t, outside, map[string]string{"pagemap-1.img": pagemapHere, "pages-1.img": onePage})
	child := map[string]string{"pagemap-1.img": pagemapParent, "pages-1.img": ""}
	for _, test := range []struct {
		why, want string
		files     map[string]string
	}{
		{"a link among the images", "core-1.img is not a regular file", map[string]string{"core-1.img -> /etc/passwd": ""}},
		{"a parent outside", "move the directories of the chain together", map[string]string{"parent -> " + outside: ""}},
		{"a parent outside by a link inside", "move the directories of the chain together", map[string]string{"parent -> ../out": "", "../out -> " + outside: ""}},
		{"a parent that is not there", "no such file", map[string]string{"parent -> ../nowhere": ""}},
		{"no parent", "there is no such parent", nil},
		{"itself", "builds on itself", map[string]string{"parent -> .": ""}},
		{"a loop of two", "builds on itself", map[string]string{"parent -> ../b": "", "../b/pagemap-1.img": pagemapParent, "../b/pages-1.img": "", "../b/parent -> ../a": ""}},
		{"a loop of links", "too many links", map[string]string{"parent -> parent": ""}},
		{"a link in the parent", "pages-1.img is not a regular file", map[string]string{"parent -> ../b": "", "../b/pagemap-1.img": pagemapHere, "../b/pages-1.img -> /etc/passwd": ""}},
	} {
		dir := filepath.Join(t.TempDir(), "a")
		makeFiles(t, dir, map[string]string{"inventory.img": ""})
		makeFiles(t, dir, child)
		makeFiles(t, dir, test.files)
		_, _, err := OpenDir(dir)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", test.why, err, test.want)
		}
	}
	dir := t.TempDir()
	_, _, err := OpenDir(dir)
	if err == nil || !strings.Contains(err.Error(), "it has no inventory.img") || !strings.Contains(err.Error(), dir) {
		t.Errorf("a directory of something else: %v", err)
	}
	if _, _, err := OpenDir(filepath.Join(dir, "nowhere")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no directory: %v", err)
	}
	makeFiles(t, dir, map[string]string{"inventory.img": ""})
	if err := syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := OpenDir(dir); err == nil || !strings.Contains(err.Error(), "fifo is not a regular file") {
		t.Errorf("a FIFO: %v", err)
	}
}
