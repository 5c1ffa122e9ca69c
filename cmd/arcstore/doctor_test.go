package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// fakeProgram makes a shell script of that name the only program in PATH, or
// none, and returns its directory. What is in the system's sbin directories is found all the same.
func fakeProgram(t *testing.T, name, script string) string {
	t.Helper()
	dir := t.TempDir()
	if name != "" {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir)
	return dir
}

// found makes a check and compares its finding: its status, and a part of what it found or advises.
func found(t *testing.T, run func(context.Context) (finding, error), want status, text string) {
	t.Helper()
	f, err := run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if f.Status != want || !strings.Contains(f.Found, text) {
		t.Errorf("found %+v, want %s and %q", f, want, text)
	}
	if (f.Status == statusOK) != (f.Advice == "") {
		t.Errorf("what is %s has the advice %q", f.Status, f.Advice)
	}
}

func TestDoctorProgram(t *testing.T) {
	run := func(ctx context.Context) (finding, error) { return checkProgram(ctx, "zonk", "get it") }
	fakeProgram(t, "", "")
	found(t, run, statusMissing, "no zonk in PATH")
	dir := fakeProgram(t, "zonk", "echo zonk 1.2; echo more")
	found(t, run, statusOK, "zonk 1.2 ("+filepath.Join(dir, "zonk")+")")
	fakeProgram(t, "zonk", "echo no such library >&2; exit 127")
	found(t, run, statusMissing, "exit status 127: no such library")
}

func TestDoctorHypervisors(t *testing.T) {
	fakeProgram(t, "", "")
	if checks := otherHypervisors(); len(checks) != 0 {
		t.Errorf("found %v where there is none", checks)
	}
	fakeProgram(t, "firecracker", "echo Firecracker v1.7.0")
	checks := otherHypervisors()
	if len(checks) != 1 || checks[0].name != "firecracker" {
		t.Fatalf("found %v", checks)
	}
	found(t, checks[0].run, statusOK, "Firecracker v1.7.0")
}

func TestDoctorResult(t *testing.T) {
	good := check{"one", "all", func(context.Context) (finding, error) { return finding{Status: statusOK, Found: "fine"}, nil }}
	lacking := check{"two", "some", func(context.Context) (finding, error) { return finding{statusMissing, "none", "get it"}, nil }}
	broken := check{"three", "some", func(context.Context) (finding, error) { return finding{}, errors.New("broken") }}
	for _, test := range []struct {
		checks []check
		ok     bool
		code   int
	}{
		{[]check{good}, true, exitDone},
		{[]check{good, lacking}, false, exitDone},
		{[]check{broken, lacking, good}, false, exitFailed},
	} {
		var out bytes.Buffer
		err := runDoctor(t.Context(), &app{stdout: &out, json: true}, test.checks)
		if code := exitCode(err); code != test.code {
			t.Errorf("exit code %d, want %d: %v", code, test.code, err)
		}
		var got struct {
			Checks []map[string]string
			OK     bool
		}
		if err := json.Unmarshal(out.Bytes(), &got); err != nil {
			t.Fatal(err)
		}
		if got.OK != test.ok || len(got.Checks) != len(test.checks) {
			t.Errorf("printed %s", out.String())
		}
		for i, c := range test.checks {
			if got.Checks[i]["name"] != c.name || got.Checks[i]["for"] != c.purpose || got.Checks[i]["status"] == "" || got.Checks[i]["found"] == "" {
				t.Errorf("check %s is printed as %v", c.name, got.Checks[i])
			}
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var out bytes.Buffer
	if err := runDoctor(ctx, &app{stdout: &out}, []check{good}); !errors.Is(err, context.Canceled) || out.Len() > 0 {
		t.Errorf("an interrupted doctor returns %v and prints %q", err, out.String())
	}
}

// TestDoctorNames: scripts go by the names of the checks.
func TestDoctorNames(t *testing.T) {
	fakeProgram(t, "", "")
	var names []string
	for _, c := range machineChecks(t.TempDir()) {
		names = append(names, c.name)
	}
	want := "privileges criu criu-check criu-features soft-dirty runc packet-filter userfaultfd fuse kvm qemu " +
		"store store-space store-holes store-flock temporary-directory clock"
	if got := strings.Join(names, " "); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}
