package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"
	"testing"

	"github.com/spf13/cobra"

	"github.com/arcboxlabs/arcstore"
	"github.com/arcboxlabs/arcstore/manifest"
	"github.com/arcboxlabs/arcstore/store"
)

func TestExitCode(t *testing.T) {
	for _, test := range []struct {
		err  error
		want int
	}{
		{nil, 0},
		{io.ErrUnexpectedEOF, 1},
		{arcstore.ErrNotReady, 1},
		{arcstore.ErrExists, 1},
		{arcstore.ErrNoStore, 1},
		{arcstore.ErrVersion, 1},
		{arcstore.ErrDirtyBitmap, 1},
		{errDiffers, 1},
		{syscall.ENOSPC, 1},
		{usagef("no"), 2},
		{arcstore.ErrInvalid, 2},
		{arcstore.ErrAmbiguous, 2},
		{arcstore.ErrNotFound, 3},
		{arcstore.ErrCorrupt, 4},
		{&manifest.CorruptError{File: "x", Why: "y"}, 4},
		{errDamage, 4},
		{&store.InUseError{Dir: "x", PID: 1}, 5},
		{context.Canceled, 130},
		{errInterrupted, 130},
	} {
		err := test.err
		if err != nil {
			err = hinted{fmt.Errorf("wrapped: %w", err), "hint"}
		}
		if got := exitCode(err); got != test.want {
			t.Errorf("exitCode(%v) = %d, want %d", err, got, test.want)
		}
	}
}

func TestMessage(t *testing.T) {
	for _, test := range []struct {
		err  error
		want string
	}{
		{errors.New("arcstore: no luck"), "arcstore: no luck"},
		{errors.Join(errors.New("one"), errors.New("two")), "arcstore: one; two"},
		{errors.New("store: read pack 1f2e: unexpected EOF"), "arcstore: read pack 1f2e: unexpected EOF"},
		{fmt.Errorf("%w: %w", arcstore.ErrExists, errors.New("restore: memory in out: exists already")), "arcstore: memory in out: exists already"},
		{fmt.Errorf("arcstore: %w: %w", arcstore.ErrInvalid, errors.New("manifest: invalid target")), "arcstore: invalid target"},
		{arcstore.ErrInvalid, "arcstore: invalid argument"},
		{fmt.Errorf("/etc: %w: no archive", arcstore.ErrInvalid), "arcstore: /etc: no archive"},
		{usagef("that is not so"), "arcstore: that is not so (see arcstore gc --help)"},
		{fmt.Errorf("write: %w", syscall.ENOSPC), "arcstore: write: no space left on device (nothing in the store is harmed; free some space and try again)"},
		{hinted{errors.New("one"), "do this"}, "arcstore: one (do this)"},
	} {
		if got := message(test.err, "arcstore gc"); got != test.want {
			t.Errorf("got  %q\nwant %q", got, test.want)
		}
	}
}

// TestFlagErrors: what is wrong with a flag's value is said in words of the command line.
func TestFlagErrors(t *testing.T) {
	for arg, want := range map[string]string{
		"--lock-timeout=soon": `--lock-timeout "soon" is no duration such as 30s, 5m or 2h`,
		"--json=perhaps":      `--json "perhaps" is neither true nor false`,
		"--keep-last=z":       `--keep-last "z" is no whole number that is possible here`,
		"--nothing":           "unknown flag: --nothing",
	} {
		var out bytes.Buffer
		code := run([]string{"prune", "web", arg}, strings.NewReader(""), io.Discard, &out)
		if got := strings.TrimSpace(out.String()); code != exitUsage || got != "arcstore: "+want+" (see arcstore prune --help)" {
			t.Errorf("%s: exit code %d, %q", arg, code, got)
		}
	}
}

// TestHelp: every command's help says what it does, shows an example, and names its exit codes.
func TestHelp(t *testing.T) {
	var walk func(cmd *cobra.Command)
	walk = func(cmd *cobra.Command) {
		var out bytes.Buffer
		cmd.SetOut(&out)
		if err := cmd.Help(); err != nil {
			t.Fatal(err)
		}
		text := out.String()
		for _, want := range []string{"Usage:", "Examples:\n  ", "Exit codes:\n  0    done\n", "--store"} {
			if !strings.Contains(text, want) {
				t.Errorf("%s: its help lacks %q", cmd.CommandPath(), want)
			}
		}
		if cmd.Short == "" || strings.HasSuffix(cmd.Short, ".") {
			t.Errorf("%s: its summary is %q", cmd.CommandPath(), cmd.Short)
		}
		for _, line := range strings.Split(text, "\n") {
			if len([]rune(line)) > 120 && !strings.Contains(line, "completion") {
				t.Errorf("%s: a line of its help is too long: %q", cmd.CommandPath(), line)
			}
		}
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
	}
	walk(newRootCommand(&app{stdin: strings.NewReader(""), stdout: io.Discard, stderr: io.Discard}))
}

func TestSizeFlag(t *testing.T) {
	for text, want := range map[string]int64{"4KiB": 4096, "4kib": 4096, "2MiB": 2 << 20, "2 MiB": 2 << 20, "65536": 65536, "1GiB": 1 << 30} {
		var s sizeFlag
		if err := s.Set(text); err != nil || int64(s) != want {
			t.Errorf("Set(%q) = %d, %v", text, s, err)
		}
	}
	for _, text := range []string{"", "big", "-1", "4XiB", "99999999999999999999"} {
		var s sizeFlag
		if err := s.Set(text); err == nil {
			t.Errorf("Set(%q) = %d", text, s)
		}
	}
	for n, want := range map[sizeFlag]string{4096: "4KiB", 2 << 20: "2MiB", 256 << 20: "256MiB", 1000: "1000B"} {
		if got := n.String(); got != want {
			t.Errorf("%d is written %q, want %q", int64(n), got, want)
		}
	}
}

func TestShortIDs(t *testing.T) {
	var all []*arcstore.Snapshot
	for _, id := range []string{"aaaaaaaaaaaa1", "aaaaaaaaaaaa2", "bbbbbbbbbbbbbb", "c"} {
		all = append(all, &arcstore.Snapshot{ID: id})
	}
	if got := shortIDs(all)("aaaaaaaaaaaa2xyz"); got != "aaaaaaaaaaaa2" {
		t.Errorf("two that differ late are cut to %q", got)
	}
	if got := shortIDs(all[1:])("aaaaaaaaaaaa2"); got != "aaaaaaaa" {
		t.Errorf("cut to %q", got)
	}
}

func TestPrintable(t *testing.T) {
	if got := printable("a\x1b[31mb\nü"); got != "a\uFFFD[31mb\uFFFDü" {
		t.Errorf("got %q", got)
	}
}
