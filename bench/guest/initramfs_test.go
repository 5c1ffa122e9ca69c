package guest

import (
	"archive/tar"
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"testing"
)

func TestInitramfsTree(t *testing.T) {
	var archive bytes.Buffer
	tree := &guestTree{archive: newCPIOWriter(&archive), directories: map[string]bool{}}
	check(t, tree.addBase())
	for _, h := range []tar.Header{
		{Name: "./", Typeflag: tar.TypeDir, Mode: 0o755},
		{Name: "./bin/", Typeflag: tar.TypeDir, Mode: 0o755},
		{Name: "./tmp/", Typeflag: tar.TypeDir, Mode: 0o1777},
		{Name: "./etc/", Typeflag: tar.TypeDir, Mode: 0o755},
		{Name: "./bin/tool", Typeflag: tar.TypeReg, Mode: 0o4755, Size: 5},
		{Name: "./bin/alias", Typeflag: tar.TypeLink, Linkname: "./bin/tool"},
		{Name: "./lib64/ld.so", Typeflag: tar.TypeSymlink, Linkname: "/lib/ld.so"},
	} {
		check(t, tree.addPackaged(&h, strings.NewReader("hello")))
	}
	check(t, tree.archive.close())

	got := map[string]string{}
	for rest := archive.Bytes(); len(rest) > 0; {
		field := func(n int) int {
			v, err := strconv.ParseUint(string(rest[6+8*n:14+8*n]), 16, 32)
			check(t, err)
			return int(v)
		}
		if string(rest[:6]) != "070701" {
			t.Fatalf("no entry at %q", rest[:6])
		}
		name := string(rest[110 : 110+field(11)-1])
		data := (110 + field(11) + 3) &^ 3
		content := string(rest[data : data+field(6)])
		if _, twice := got[name]; twice {
			t.Errorf("%s is there twice", name)
		}
		got[name] = fmt.Sprintf("%o %s", field(1), content)
		rest = rest[(data+field(6)+3)&^3:]
	}
	for name, want := range map[string]string{
		"bin":             "120777 usr/bin",
		"usr/bin":         "40755 ",
		"etc":             "40755 ",
		"dev/console":     "20600 ",
		"usr/bin/tool":    "104755 hello",
		"usr/bin/alias":   "120777 /usr/bin/tool",
		"usr/lib64/ld.so": "120777 /lib/ld.so",
		"TRAILER!!!":      "0 ",
	} {
		if got[name] != want {
			t.Errorf("%s is %q, not %q", name, got[name], want)
		}
	}
}
