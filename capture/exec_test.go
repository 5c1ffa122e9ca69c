package capture

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/arcboxlabs/arcstore/manifest"
	"github.com/arcboxlabs/arcstore/store/disk"
)

func TestExec(t *testing.T) {
	there := t.TempDir()
	w, err := Exec(t.Context(), []string{"sh", "-c", `pwd >"$ARCSTORE_STATE_DIR/where" && mkdir "$ARCSTORE_STATE_DIR/d" && printf %s "$ARCSTORE_TARGET" >"$ARCSTORE_STATE_DIR/d/name" &&
		head -c 10000 /dev/zero | tr '\0' x >"$ARCSTORE_MEMORY"`}, there, "a/b", t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	table, _, err := take(t, manifest.OpenFiles(t.TempDir(), disk.OS), &w.VM, Options{})
	if err != nil {
		t.Fatal(err)
	}
	checkTable(t, table, "memory", []byte(strings.Repeat("x", 10000)))
	checkTable(t, table, "d/name", []byte("a/b"))
	checkTable(t, table, "where", []byte(there+"\n"))
}

func TestExecFails(t *testing.T) {
	for command, want := range map[string]string{
		"exit 3":                                            "the command failed: exit status 3",
		"echo a; echo b >&2; exit 3":                        "the command failed (exit status 3): b",
		"printf 'a\nb' >&2; exit 3":                         "(exit status 3): b",
		"printf '\377' >&2; false":                          "(exit status 1): ?",
		"seq 100000 >&2; false":                             "(exit status 1): 100000",
		"head -c 5000000 /dev/zero | tr '\\0' y >&2; false": strings.Repeat("y", 1000),
	} {
		if _, err := Exec(t.Context(), []string{"sh", "-c", command}, "", "x", t.TempDir()); err == nil || !strings.HasSuffix(err.Error(), want) || len(err.Error()) > 1100 {
			t.Errorf("%s: %v", command, err)
		}
	}
	if _, err := Exec(t.Context(), []string{filepath.Join(t.TempDir(), "nothing")}, "", "x", t.TempDir()); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	if _, err := Exec(t.Context(), []string{"sh", "-c", ":"}, filepath.Join(t.TempDir(), "nowhere"), "x", t.TempDir()); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("enough")
	dir := t.TempDir()
	go func() {
		for {
			if _, err := os.Stat(filepath.Join(dir, "memory")); err == nil {
				cancel(why)
				return
			}
			time.Sleep(time.Millisecond)
		}
	}()
	if _, err := Exec(ctx, []string{"sh", "-c", `sleep 1000 & echo >"$ARCSTORE_MEMORY"; wait`}, "", "x", dir); !errors.Is(err, why) {
		t.Error(err)
	}
}
