package restore

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"github.com/arcboxlabs/arcstore/capture/criu"
	"github.com/arcboxlabs/arcstore/manifest"
)

func TestExplain(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	about := &manifest.Checkpoint{Sockets: []manifest.Socket{
		{Family: "inet", Type: "stream", State: "listen", Local: "127.0.0.1:0"},
		{Family: "inet", Type: "stream", State: "listen", Local: l.Addr().String()},
	}}
	for says, want := range map[string]string{
		"File tmp/a b has bad size 5 (expect 4)":                       "the file /tmp/a b has the size 5, and had 4 when the snapshot was taken: put it back as it was, or cut off what was added since (truncate -s 4 /tmp/a b)",
		"File tmp/x has bad size 3 (expect 4)":                         "the file /tmp/x has the size 3, and had 4 when the snapshot was taken: put it back as it was",
		"Can't open file tmp/x on restore: No such file or directory":  "the file /tmp/x, which the processes have open, is not there: put it back",
		"inet: Can't bind inet socket (id 26): Address already in use": l.Addr().String() + ", where the processes listen, is in use: end what uses it",
		"File tmp/x has bad mode 0100600 (expect 0100644)":             "the file /tmp/x has the mode 100600, and had 100644 when the snapshot was taken: put it back as it was",
		"something new": "CRIU says: something new",
		"mnt: No mapping for 51:(null) mountpoint": ErrContainer.Error(),
	} {
		cause := &criu.FailedError{Text: says}
		if err := explain(about, cause); err.Error() != want || !errors.Is(err, error(cause)) {
			t.Errorf("%s: %v, want %q", says, err, want)
		}
	}
	if err := explain(about, &criu.FailedError{Text: "No mapping for 51:(null) mountpoint"}); !errors.Is(err, ErrContainer) {
		t.Errorf("a container's: %v", err)
	}
}

// Of a restore that fails, a PID file stays only where it names a process that is there.
func TestClaimPIDFile(t *testing.T) {
	dir := t.TempDir()
	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{dir, filepath.Join(dir, "none", "pid"), pipe} {
		if _, err := claimPIDFile(name); err == nil {
			t.Errorf("%s can be a PID file", name)
		}
	}
	name := filepath.Join(dir, "pid")
	for text, stays := range map[string]bool{"": false, "nonsense": false, "4194305": false, strconv.Itoa(os.Getpid()): true} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		giveUp, err := claimPIDFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(name); err != nil || string(got) != text {
			t.Errorf("%q is %q before there is a process", text, got)
		}
		giveUp()
		if _, err := os.Stat(name); (err == nil) != stays {
			t.Errorf("with %q: %v", text, err)
		}
	}
}
