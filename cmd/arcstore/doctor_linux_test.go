package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/arcboxlabs/arcstore"
	"github.com/arcboxlabs/arcstore/capture/criu"
)

// TestDoctorAnswerHanging: a program that hangs ends with the check, and with it its children.
func TestDoctorAnswerHanging(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hangs")
	child := filepath.Join(t.TempDir(), "child")
	if err := os.WriteFile(path, []byte("#!/bin/sh\nsleep 60 & echo $! >"+child+"; wait\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	errs := make(chan error)
	go func() {
		_, err := answer(ctx, path, "--version")
		errs <- err
	}()
	pid := awaitPID(t, child)
	cancel()
	if err := <-errs; !errors.Is(err, context.Canceled) {
		t.Errorf("answer = %v", err)
	}
	awaitEnd(t, pid)
}

// awaitPID waits for a process to write its ID to a file.
func awaitPID(t *testing.T, file string) int {
	t.Helper()
	for range 1000 {
		if b, err := os.ReadFile(file); err == nil && strings.HasSuffix(string(b), "\n") {
			pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
			if err != nil {
				t.Fatal(err)
			}
			return pid
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("the program did not start")
	return 0
}

// awaitEnd waits for a process to be gone, or dead.
func awaitEnd(t *testing.T, pid int) {
	t.Helper()
	for range 1000 {
		b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
		if err != nil || strings.Contains(string(b), ") Z ") {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("process %d goes on", pid)
}

// fakeCRIU makes a shell script the CRIU that is found.
func fakeCRIU(t *testing.T, script string) {
	t.Helper()
	dir := fakeProgram(t, "criu", script)
	t.Setenv(criu.PathVariable, filepath.Join(dir, "criu"))
}

func TestDoctorCRIU(t *testing.T) {
	t.Setenv(criu.PathVariable, filepath.Join(t.TempDir(), "nothing"))
	found(t, checkCRIU, statusMissing, "which is no program")
	fakeCRIU(t, "echo Version: 99.1")
	found(t, checkCRIU, statusOK, "CRIU 99.1 (")
	fakeCRIU(t, "echo Version: 2.6")
	found(t, checkCRIU, statusMissing, "CRIU 2.6 (")
	fakeCRIU(t, "echo 'error while loading shared libraries: libnet.so.1' >&2; exit 127")
	found(t, checkCRIU, statusMissing, "libnet.so.1")
}

func TestDoctorCRIUCheck(t *testing.T) {
	fakeCRIU(t, "echo Looks good.")
	found(t, checkKernelForCRIU, statusOK, "looks good")
	fakeCRIU(t, "echo Looks good but some kernel features are missing")
	found(t, checkKernelForCRIU, statusLimited, "but some kernel features are missing")
	fakeCRIU(t, "echo 'Error (criu/vdso.c:586): Unexpected rt vDSO area bounds' >&2; exit 1")
	found(t, checkKernelForCRIU, statusMissing, "Unexpected rt vDSO area bounds")
}

func TestDoctorCRIUFeatures(t *testing.T) {
	fakeCRIU(t, "echo Looks good.")
	found(t, checkCRIUFeatures, statusOK, "mem_dirty_track")
	fakeCRIU(t, `case $3 in "") echo Looks good. ;; *) exit 1 ;; esac`)
	found(t, checkCRIUFeatures, statusLimited, "no mem_dirty_track")
	fakeCRIU(t, "exit 1")
	if f, err := checkCRIUFeatures(t.Context()); err != nil || f.Status != statusMissing {
		t.Errorf("a CRIU without rights has the features %+v, %v", f, err)
	}
}

// TestDoctorRealCRIU: what the installed CRIU says of tracking is what the kernel does.
func TestDoctorRealCRIU(t *testing.T) {
	path, err := criu.Find()
	if err != nil || os.Geteuid() != 0 {
		t.Skip("needs CRIU and root: ", err)
	}
	found(t, checkCRIU, statusOK, path)
	features, err := checkCRIUFeatures(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	tracking, err := checkSoftDirty(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(features.Found, "no mem_dirty_track") != (tracking.Status != statusOK) {
		t.Errorf("CRIU has %q, and the kernel %q", features.Found, tracking.Found)
	}
}

// TestDoctorRealParts: the checks of what this machine has can be made, whatever they find.
func TestDoctorRealParts(t *testing.T) {
	for _, c := range machineChecks(t.TempDir()) {
		f, err := c.run(t.Context())
		if err != nil || f.Found == "" || f.Status == "" {
			t.Errorf("%s: %+v, %v", c.name, f, err)
		}
		t.Logf("%s: %s, %s", c.name, f.Status, f.Found)
	}
	if os.Geteuid() != 0 {
		return
	}
	if f, err := checkUserfaultfd(t.Context()); err != nil || f.Status == statusLimited {
		t.Errorf("root's userfaultfd is %+v, %v", f, err)
	}
}

func TestDoctorPacketFilter(t *testing.T) {
	dirs := sbin
	t.Cleanup(func() { sbin = dirs })
	sbin = nil
	fakeProgram(t, "", "")
	found(t, checkPacketFilter, statusMissing, "neither")
	fakeProgram(t, "nft", "echo nftables v1.0")
	found(t, checkPacketFilter, statusLimited, "nftables v1.0")
	fakeProgram(t, "iptables", "echo iptables v1.8")
	found(t, checkPacketFilter, statusOK, "iptables v1.8")
}

func TestDoctorPrivileges(t *testing.T) {
	const admin, restore = 1 << unix.CAP_SYS_ADMIN, 1 << unix.CAP_CHECKPOINT_RESTORE
	for _, test := range []struct {
		uid          int
		capabilities uint64
		want         status
	}{
		{0, admin | restore, statusOK},
		{0, restore, statusLimited},
		{0, 0, statusMissing},
		{1000, 0, statusMissing},
		{1000, restore, statusLimited},
	} {
		if f := judgePrivileges(test.uid, test.capabilities); f.Status != test.want {
			t.Errorf("user %d with %#x: %+v", test.uid, test.capabilities, f)
		}
	}
}

func TestDoctorClock(t *testing.T) {
	now := time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC)
	for _, test := range []struct {
		now          time.Time
		synchronised bool
		want         status
	}{
		{now, true, statusOK},
		{now, false, statusLimited},
		{time.Unix(0, 0), true, statusMissing},
		{now.AddDate(200, 0, 0), true, statusMissing},
	} {
		if f := judgeClock(test.now, test.synchronised, time.Millisecond); f.Status != test.want {
			t.Errorf("%v: %+v", test.now, f)
		}
	}
}

func TestDoctorSpace(t *testing.T) {
	const plenty = 100 << 30
	for _, test := range []struct {
		space   space
		lasting bool
		want    status
	}{
		{space{unix.EXT4_SUPER_MAGIC, plenty, plenty}, true, statusOK},
		{space{unix.BTRFS_SUPER_MAGIC, plenty, -1}, true, statusOK},
		{space{0x1234, plenty, plenty}, true, statusOK},
		{space{unix.EXT4_SUPER_MAGIC, 1 << 20, plenty}, true, statusLimited},
		{space{unix.EXT4_SUPER_MAGIC, plenty, 10}, true, statusLimited},
		{space{unix.EXT4_SUPER_MAGIC, plenty, 0}, true, statusMissing},
		{space{unix.EXT4_SUPER_MAGIC, 0, plenty}, true, statusMissing},
		{space{unix.NFS_SUPER_MAGIC, plenty, plenty}, true, statusLimited},
		{space{unix.TMPFS_MAGIC, plenty, plenty}, true, statusLimited},
		{space{unix.TMPFS_MAGIC, plenty, plenty}, false, statusOK},
	} {
		if f := judgeSpace(test.space, test.lasting); f.Status != test.want || (f.Advice == "") != (f.Status == statusOK) {
			t.Errorf("%+v: %+v", test.space, f)
		}
	}
	t.Setenv("TMPDIR", filepath.Join(t.TempDir(), "nothing"))
	found(t, checkTemporaryDirectory, statusMissing, "no such file")
}

// TestDoctorStoreStays: a store is the same after its checks, and so is who holds it.
func TestDoctorStoreStays(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	if err := arcstore.Init(dir, nil); err != nil {
		t.Fatal(err)
	}
	m, err := arcstore.Open(t.Context(), dir, &arcstore.Options{Holder: "the runtime"})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	run := func(context.Context) (finding, error) { return checkStore(t.Context(), dir) }
	before := tree(t, dir)
	for _, c := range storeChecks(dir) {
		if _, err := c.run(t.Context()); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	found(t, run, statusOK, "in use by process "+strconv.Itoa(os.Getpid())+" (the runtime)")
	if after := tree(t, dir); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	found(t, run, statusOK, "no process here holds its lock")
}

// TestDoctorFileSystems: holes and locks are tried where the store is.
func TestDoctorFileSystems(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=4m,nr_inodes=5"); err != nil {
		t.Skip("needs the right to mount a small file system: ", err)
	}
	defer syscall.Unmount(dir, syscall.MNT_DETACH)
	in := func(run func(string) (finding, error)) func(context.Context) (finding, error) {
		return func(context.Context) (finding, error) { return run(dir) }
	}
	found(t, in(checkStoreSpace), statusLimited, "tmpfs, 4.0 MiB free, 4 inodes")
	found(t, in(checkHoles), statusOK, "")
	found(t, in(checkFlock), statusOK, "")
	fillUp(t, filepath.Join(dir, "full"))
	found(t, in(checkStoreSpace), statusMissing, "tmpfs, 0 B free")
	found(t, in(checkHoles), statusLimited, "no space left on device")
	if err := syscall.Mount("", dir, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	found(t, in(checkFlock), statusLimited, "read-only file system")
}

// tree lists the files in dir with their sizes.
func tree(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		b.WriteString(name + " " + info.Mode().String())
		if !d.IsDir() {
			b.WriteString(" " + strconv.FormatInt(info.Size(), 10) + " " + info.ModTime().String())
		}
		b.WriteString("\n")
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}
