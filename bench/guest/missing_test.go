package guest

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestExcuse(t *testing.T) {
	missing := fmt.Errorf("guest: prepare: %w", &MissingError{Part: "qemu", Get: "apt-get install qemu", Err: io.EOF})
	for _, test := range []struct {
		require string
		err     error
		want    bool
	}{
		{"", nil, false},
		{"", io.EOF, false},
		{"", missing, true},
		{"criu,s3", missing, true},
		{"criu,qemu", missing, false},
	} {
		t.Setenv(RequireVariable, test.require)
		why, ok := Excuse(test.err)
		if ok != test.want {
			t.Errorf("Excuse(%v) with %q: %v", test.err, test.require, ok)
		}
		if ok && !strings.Contains(why, "apt-get install qemu") {
			t.Errorf("the sentence %q does not help", why)
		}
	}
}

// TestMissingParts has Prepare run on machines that have ever more of the programs that it needs.
func TestMissingParts(t *testing.T) {
	bin, cache := t.TempDir(), t.TempDir()
	t.Setenv("PATH", bin)
	want := func(part, get string) {
		t.Helper()
		_, err := Prepare(testContext(t), cache, Counter)
		var missing *MissingError
		if !errors.As(err, &missing) || missing.Part != part || missing.Get != get {
			t.Errorf("got %v, want no %s (%s)", err, part, get)
		}
	}
	install := func(program, script string) {
		check(t, os.WriteFile(filepath.Join(bin, program), []byte("#!/bin/sh\n"+script), 0o700))
	}
	want("qemu-system-x86_64", "apt-get install qemu-system-x86")
	install("qemu-system-x86_64", "")
	want("apt-cache", "apt-get install apt")
	install("apt-cache", "echo 'E: No packages found' >&2; exit 100")
	want("Debian package linux-image-cloud-amd64", "apt-get update")
	install("apt-cache", "echo '  Depends: linux-image-6.1.0-1-cloud-amd64'")
	want("apt-get", "apt-get install apt")
	install("apt-get", "echo 'E: Unable to fetch' >&2; exit 100")
	want("Debian package linux-image-6.1.0-1-cloud-amd64", "apt-get update")
}
