package arcstore_test

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/arcboxlabs/arcstore"
	"github.com/arcboxlabs/arcstore/bench/processes"
)

// A restore that cannot be says what is in its way, and works once that is gone.
func TestRunFails(t *testing.T) {
	c := newCheckpoints(t)
	dir := t.TempDir()
	held := filepath.Join(dir, "held")
	cmd := exec.Command("/bin/sh", "-c", `exec 3>"$0"; echo held >&3; while :; do /bin/sleep 1000; done`, held)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	wait := func() {
		t.Helper()
		for range 1000 {
			if text, err := os.ReadFile(held); err == nil && string(text) == "held\n" {
				return
			}
			syscall.Nanosleep(&syscall.Timespec{Nsec: 5e6}, nil)
		}
		t.Fatal("it does not start")
	}
	wait()
	s := c.take(t, arcstore.Container{PID: cmd.Process.Pid})
	pidFile := filepath.Join(dir, "pid")
	fails := func(want string, opts *arcstore.RunOptions) error {
		t.Helper()
		_, err := c.m.Run(t.Context(), s.ID, opts)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
		if _, err := os.Stat(pidFile); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("a PID file stays: %v", err)
		}
		return err
	}
	// Nobody has waited for the process that CRIU has ended.
	fails("for which its parent", nil)
	if err := cmd.Wait(); err == nil {
		t.Fatal("it was not ended")
	}
	if err := fails("no container of runc's", &arcstore.RunOptions{Runc: "x", Bundle: dir, PIDFile: pidFile}); !errors.Is(err, arcstore.ErrOtherKind) {
		t.Errorf("%v", err)
	}
	fails("its directory is not there", &arcstore.RunOptions{PIDFile: filepath.Join(dir, "none", "pid")})
	if err := os.WriteFile(held, []byte("held and more\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	fails("the file "+held+" has the size 14, and had 5", &arcstore.RunOptions{PIDFile: pidFile})
	if err := os.Remove(held); err != nil {
		t.Fatal(err)
	}
	fails("the file "+held+", which the processes have open, is not there", &arcstore.RunOptions{PIDFile: pidFile})
	if err := os.WriteFile(held, []byte("held\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if report := c.run(t, s.ID, &arcstore.RunOptions{PIDFile: pidFile}); report.PID != cmd.Process.Pid {
		t.Errorf("restored as %d", report.PID)
	}
}

// A container of runc's is not restored without runc, nor in the place of another.
func TestRunRuncFails(t *testing.T) {
	c := newCheckpoints(t)
	r, err := processes.Runc(t.Context(), t.TempDir(), "arcstore-test-three")
	needProcesses(t, err)
	defer r.Delete(r.ID)
	s := c.take(t, arcstore.Container{Runc: r.ID, RuncRoot: r.Root, LeaveRunning: true})
	files := t.TempDir()
	if _, err := c.m.Restore(t.Context(), s.ID, files, nil); err != nil {
		t.Fatal(err)
	}
	imported := c.take(t, arcstore.Container{Images: filepath.Join(files, "criu")})
	broken := t.TempDir()
	if err := os.WriteFile(filepath.Join(broken, "config.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		id   string
		opts arcstore.RunOptions
		want string
	}{
		{s.ID, arcstore.RunOptions{}, "it is a container of a runtime's"},
		{imported.ID, arcstore.RunOptions{}, "it is a container of a runtime's"},
		{s.ID, arcstore.RunOptions{Runc: r.ID, RuncRoot: r.Root, Bundle: r.Bundle}, "there is a container " + r.ID + " already"},
		{s.ID, arcstore.RunOptions{Runc: "x", RuncRoot: r.Root, Bundle: "/nowhere"}, "there is no bundle in /nowhere"},
		{s.ID, arcstore.RunOptions{Runc: "x", RuncRoot: r.Root, Bundle: broken}, "config.json is no configuration of a container"},
	} {
		if _, err := c.m.Run(t.Context(), test.id, &test.opts); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%+v: %v, want %q", test.opts, err, test.want)
		}
	}
	if err := r.GoesOn(t.Context()); err != nil {
		t.Error(err)
	}
}
