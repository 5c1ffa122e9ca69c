package criu_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/arcboxlabs/arcstore/capture/criu"
)

// fakeCRIU makes a shell script that stands in for CRIU, since its texts are what is read here.
func fakeCRIU(t *testing.T, script string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "criu")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestFind(t *testing.T) {
	inPath, named := fakeCRIU(t, ""), fakeCRIU(t, "")
	t.Setenv("PATH", filepath.Dir(inPath))
	t.Setenv(criu.PathVariable, "")
	if got, err := criu.Find(); err != nil || got != inPath {
		t.Errorf("Find in PATH = %q, %v", got, err)
	}
	t.Setenv(criu.PathVariable, named)
	if got, err := criu.Find(); err != nil || got != named {
		t.Errorf("Find of what the variable names = %q, %v", got, err)
	}
	t.Setenv(criu.PathVariable, filepath.Join(t.TempDir(), "nothing"))
	if got, err := criu.Find(); !errors.Is(err, criu.ErrUnusable) || !strings.Contains(err.Error(), criu.PathVariable) {
		t.Errorf("Find of what the variable names wrongly = %q, %v", got, err)
	}
}

func TestVersionOf(t *testing.T) {
	for text, want := range map[string]criu.Version{
		"Version: 4.2.1":                      {Major: 4, Minor: 2, Patch: 1},
		"Version: 4.1\nGitID: v4.1-15-g5eabc": {Major: 4, Minor: 1},
		"Version: 3.17.1":                     {Major: 3, Minor: 17, Patch: 1},
	} {
		got, err := criu.VersionOf(t.Context(), fakeCRIU(t, "echo '"+text+"'"))
		if err != nil || got != want {
			t.Errorf("VersionOf %q = %v, %v", text, got, err)
		}
	}
	for script, want := range map[string]string{
		"echo hello": `is no CRIU: its --version says "hello"`,
		"echo 'true (GNU coreutils) 9.1'; echo more": `is no CRIU: its --version says "true (GNU coreutils) 9.1"`,
		"exit 3": "exit status 3",
		"echo 'criu: error while loading shared libraries: libnet.so.1' >&2; exit 127":                        "libnet.so.1",
		"echo 'Error (criu/crtools.c:1): one' >&2; echo 'Error (criu/crtools.c:2): two' >&2; echo; exit 1":    "CRIU says: one; two",
		"echo 'Warn  (criu/kerndat.c:1): careful' >&2; echo 'It needs rights:' >&2; echo 'get' >&2; exit 1":   "CRIU says: It needs rights",
		"echo 'Warn  (criu/kerndat.c:1): careful' >&2; echo 'Warn  (criu/kerndat.c:2): more' >&2; kill -9 $$": "CRIU says: more",
	} {
		_, err := criu.VersionOf(t.Context(), fakeCRIU(t, script))
		if !errors.Is(err, criu.ErrUnusable) || !strings.Contains(err.Error(), want) {
			t.Errorf("VersionOf a CRIU that does %q = %v", script, err)
		}
	}
}

func TestVersionOfHanging(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	start := time.Now()
	_, err := criu.VersionOf(ctx, fakeCRIU(t, "sleep 60; :"))
	if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) > 30*time.Second {
		t.Errorf("VersionOf a CRIU that hangs = %v after %v", err, time.Since(start))
	}
}

func TestAtLeast(t *testing.T) {
	for _, test := range []struct {
		v, w string
		want bool
	}{
		{"4.1", "4.1", true},
		{"4.1.1", "4.1", true},
		{"4.1", "4.1.1", false},
		{"4.0.9", "4.1", false},
		{"3.19", "4.1", false},
		{"5.0", "4.1", true},
		{"6.13", "6.9", true},
	} {
		v, err := criu.ParseVersion(test.v)
		if err != nil {
			t.Fatal(err)
		}
		w, err := criu.ParseVersion(test.w)
		if err != nil {
			t.Fatal(err)
		}
		if v.AtLeast(w) != test.want {
			t.Errorf("%v at least %v: %v", v, w, !test.want)
		}
	}
}

func TestDumpsSockets(t *testing.T) {
	old, recent := criu.Version{Major: 4, Minor: 1, Patch: 1}, criu.Version{Major: 4, Minor: 2}
	before, after := criu.Version{Major: 6, Minor: 15, Patch: 9}, criu.Version{Major: 6, Minor: 16}
	for _, test := range []struct {
		v, kernel criu.Version
		want      bool
	}{{old, before, true}, {recent, before, true}, {recent, after, true}, {old, after, false}} {
		if criu.DumpsSockets(test.v, test.kernel) != test.want {
			t.Errorf("CRIU %v on Linux %v: %v", test.v, test.kernel, !test.want)
		}
	}
}

func TestCheck(t *testing.T) {
	if warning, err := criu.Check(t.Context(), fakeCRIU(t, "echo Looks good.")); err != nil || warning != "" {
		t.Errorf("Check of a good one = %q, %v", warning, err)
	}
	good := "echo 'Looks good but some kernel features are missing'; echo 'which may cause failure.'"
	if warning, err := criu.Check(t.Context(), fakeCRIU(t, good)); err != nil || !strings.HasSuffix(warning, "missing which may cause failure.") {
		t.Errorf("Check of a middling one = %q, %v", warning, err)
	}
	bad := "echo 'Error (criu/vdso.c:1): Unexpected rt vDSO area bounds' >&2; exit 1"
	if _, err := criu.Check(t.Context(), fakeCRIU(t, bad)); err == nil || !strings.Contains(err.Error(), "vDSO") {
		t.Errorf("Check of a bad one = %v", err)
	}
}

func TestHasFeature(t *testing.T) {
	path := fakeCRIU(t, `case $3 in uffd) ;; *) exit 1 ;; esac`)
	for name, want := range map[string]bool{"uffd": true, "mem_dirty_track": false} {
		if got, err := criu.HasFeature(t.Context(), path, name); err != nil || got != want {
			t.Errorf("HasFeature %s = %v, %v", name, got, err)
		}
	}
	if _, err := criu.HasFeature(t.Context(), filepath.Join(t.TempDir(), "nothing"), "uffd"); err == nil {
		t.Error("HasFeature of no CRIU fails not")
	}
}
