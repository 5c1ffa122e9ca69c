package arcstore_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/arcboxlabs/arcstore"
	"github.com/arcboxlabs/arcstore/bench/guest"
	"github.com/arcboxlabs/arcstore/capture"
	"github.com/arcboxlabs/arcstore/capture/qmp"
)

// newQEMU returns a QEMU that knows mapped-ram, or skips: 9 or later, at ARCSTORE_QEMU or in PATH.
func newQEMU(t *testing.T) string {
	t.Helper()
	for _, name := range []string{os.Getenv("ARCSTORE_QEMU"), "qemu-system-x86_64"} {
		program, err := exec.LookPath(name)
		if err != nil {
			continue
		}
		out, err := exec.Command(program, "--version").Output()
		if v := regexp.MustCompile(`version (\d+)\.`).FindSubmatch(out); err == nil && v != nil {
			if major, _ := strconv.Atoi(string(v[1])); major >= 9 {
				return program
			}
		}
	}
	if slices.Contains(strings.Split(os.Getenv("ARCSTORE_TEST_REQUIRE"), ","), "mapped-ram") {
		t.Fatal("there is no QEMU 9 or later")
	}
	t.Skip("there is no QEMU 9 or later: Debian 13 has one; put it in PATH, or its path into ARCSTORE_QEMU")
	return ""
}

// bootNew starts a guest in that QEMU, whose console goes to a file.
func bootNew(ctx context.Context, t *testing.T, program string, incoming bool) (c *qmp.Client, console string) {
	t.Helper()
	image, err := guest.Prepare(ctx, "", guest.Counter)
	if why, ok := guest.Excuse(err); ok {
		t.Skip(why)
	}
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	console, socket := filepath.Join(dir, "console"), filepath.Join(dir, "qmp")
	args := []string{"-accel", "tcg", "-machine", "pc", "-m", "128M", "-display", "none", "-nodefaults", "-no-user-config", "-no-reboot", "-kernel", image.Kernel,
		"-initrd", image.Initramfs, "-append", "console=ttyS0 quiet panic=-1 no_timer_check", "-serial", "file:" + console, "-qmp", "unix:" + socket + ",server=on,wait=off"}
	if incoming {
		args = append(args, "-S", "-incoming", "defer")
	}
	var said bytes.Buffer
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() {
			t.Logf("QEMU said: %s", said.String())
		}
	})
	for c == nil {
		if c, err = qmp.Dial(ctx, socket); err != nil && ctx.Err() != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Cleanup(func() { c.Close() })
	return c, console
}

// awaitConsole waits until the guest has counted n times, and returns its first and its last count.
func awaitConsole(ctx context.Context, t *testing.T, console string, n int) (first, last int) {
	t.Helper()
	for {
		b, _ := os.ReadFile(console)
		all := regexp.MustCompile(`count (\d+)\r?\n`).FindAllSubmatch(b, -1)
		if len(all) >= n {
			first, _ = strconv.Atoi(string(all[0][1]))
			last, _ = strconv.Atoi(string(all[len(all)-1][1]))
			return first, last
		}
		if ctx.Err() != nil {
			t.Fatalf("the guest does not count: %q", b)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// migrated waits for the end of a migration.
func migrated(ctx context.Context, t *testing.T, c *qmp.Client, command, file string) {
	t.Helper()
	capability := map[string]any{"capabilities": []map[string]any{{"capability": "mapped-ram", "state": true}}}
	if err := c.Run(ctx, "migrate-set-capabilities", capability, nil); err != nil {
		t.Fatal(err)
	}
	if err := c.Run(ctx, command, map[string]any{"uri": "file:" + file}, nil); err != nil {
		t.Fatal(err)
	}
	for {
		var state struct {
			Status string `json:"status"`
			Why    string `json:"error-desc"`
		}
		if err := c.Run(ctx, "query-migrate", nil, &state); err != nil {
			t.Fatal(err)
		}
		switch state.Status {
		case "completed":
			return
		case "failed":
			t.Fatalf("%s: %s", command, state.Why)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// TestMappedRAM: what QEMU migrates to a file, while the guest runs and after it was paused, comes back as a file from which QEMU goes on.
func TestMappedRAM(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	program := newQEMU(t)
	dir := t.TempDir()
	storeDir := filepath.Join(dir, "store")
	if err := arcstore.Init(storeDir, nil); err != nil {
		t.Fatal(err)
	}
	m, err := arcstore.Open(ctx, storeDir, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	c, console := bootNew(ctx, t, program, false)
	_, before := awaitConsole(ctx, t, console, 2)
	file := filepath.Join(dir, "mapped")
	migrated(ctx, t, c, "migrate", file)
	_, after := awaitConsole(ctx, t, console, 2)
	s, err := m.Create(ctx, &arcstore.CreateRequest{Target: "guest", MappedRAM: file}, nil)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("the file of %d bytes took %d", info.Size(), s.Cost.BytesStored)
	again := filepath.Join(dir, "again")
	out, err := os.Create(again)
	if err != nil {
		t.Fatal(err)
	}
	report, err := m.ExportDump(ctx, s.ID, capture.KindMappedRAM, out, nil)
	if err == nil {
		err = out.Truncate(report.Bytes)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil || report.Bytes != info.Size() {
		t.Fatalf("%d bytes, %v", report.Bytes, err)
	}
	restored, console := bootNew(ctx, t, program, true)
	migrated(ctx, t, restored, "migrate-incoming", again)
	if err := restored.Run(ctx, "cont", nil, nil); err != nil {
		t.Fatal(err)
	}
	first, _ := awaitConsole(ctx, t, console, 3)
	if first < before || first > after+2 { // the line at which it was may be cut
		t.Errorf("it goes on with %d, and was at %d to %d", first, before, after)
	}
	// The same file, cut off anywhere in its head, is an error.
	head, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{0, 4, 10, 50, 100, 140, 5000, len(head) / 2} {
		cut := filepath.Join(dir, fmt.Sprint("cut", n))
		if err := os.WriteFile(cut, head[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		if d, err := capture.OpenMappedRAM(cut); err == nil {
			d.Close()
			t.Errorf("a file of %d bytes is taken for whole", n)
		}
	}
}
