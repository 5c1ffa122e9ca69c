package arcstore_test

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/arcboxlabs/arcstore/bench/guest"
	"github.com/arcboxlabs/arcstore/bench/processes"
)

// preDumpScript runs in a guest, whose kernel tracks changed pages as this
// machine's may not. The busy process is stopped for what changes while its memory is
// read, and each snapshot restores without the pre-dumps that it was made of.
const preDumpScript = `
set -eu
exec 2>/tmp/stderr # no terminal, so no progress
trap 'cat /tmp/stderr' EXIT
export ARCSTORE_DIR=/tmp/store ARCSTORE_CRIU=/usr/bin/criu
criu check --feature mem_dirty_track
mkdir /tmp/w
cp /objects.py /tmp/w
setsid /usr/bin/python3 /tmp/w/objects.py /tmp/w/count 24 </dev/null >/dev/null 2>&1 &
pid=$!
until [ -e /tmp/w/count ]; do sleep 0.1; done
change() {
	echo "$1" >/tmp/w/asked; mv /tmp/w/asked /tmp/w/count.change
	while [ -e /tmp/w/count.change ]; do sleep 0.05; done
}
arcstore --quiet init >/dev/null
arcstore create container py --pid $pid --leave-running
change 100
arcstore create container py --pid $pid --leave-running --pre-dumps 2
change 100
arcstore create container py --pid $pid
arcstore delete $(arcstore list --json | sed -n 's/^ *"id": "\(.*\)".*/\1/p' | head -n 2)
arcstore gc
arcstore verify --data
arcstore restore py@latest --run
>/tmp/w/asked; mv /tmp/w/asked /tmp/w/count.check
i=0
until [ -e /tmp/w/count.checked ]; do i=$((i+1)); [ $i -lt 600 ]; sleep 0.1; done
echo "after the restore: $(cat /tmp/w/count.checked)"
find /tmp/store/staging 2>/dev/null && exit 1
exit 0
`

func TestCheckpointPreDumps(t *testing.T) {
	needProcesses(t, processes.NeedCRIU())
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	image, err := guest.Prepare(ctx, "", guest.Script)
	if why, ok := guest.Excuse(err); ok {
		t.Skip(why)
	}
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	program := filepath.Join(dir, "arcstore")
	build := exec.CommandContext(ctx, "go", "build", "-o", program, "./cmd/arcstore")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	script := filepath.Join(dir, "script")
	if err := os.WriteFile(script, []byte(preDumpScript), 0o600); err != nil {
		t.Fatal(err)
	}
	files := map[string]string{"script": script, "usr/bin/arcstore": program, "objects.py": filepath.Join("bench", "processes", "objects.py")}
	withLibraries(ctx, t, files, "usr/bin/criu", criuPath(t))

	var console bytes.Buffer
	g, err := guest.Start(ctx, image, &guest.Options{MemoryBytes: 1 << 30, Files: files, ConsoleLog: &console})
	if err != nil {
		t.Fatal(err)
	}
	ended, err := g.WaitFor(ctx, func(line string) bool { return strings.HasPrefix(line, "script ended with ") })
	if cerr := g.Close(); err == nil {
		err = cerr
	}
	if err != nil || ended != "script ended with 0" || !strings.Contains(console.String(), "after the restore: 0 wrong of 6144, 200 changes") {
		t.Fatalf("%s: %v\n%s", ended, err, &console)
	}
	if strings.Contains(console.String(), "does not track") {
		t.Errorf("there were no pre-dumps:\n%s", &console)
	}
	t.Log(console.String())
}

// criuPath returns where CRIU is; NeedCRIU has found it.
func criuPath(t *testing.T) string {
	t.Helper()
	if path := os.Getenv("ARCSTORE_CRIU"); path != "" {
		return path
	}
	path, err := exec.LookPath("criu")
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// library is a line of ldd's: a library, or the loader.
var library = regexp.MustCompile(`(?m)(?:=> )?(/\S+) \(0x`)

// withLibraries adds a program and its libraries to a guest's files.
func withLibraries(ctx context.Context, t *testing.T, files map[string]string, name, path string) {
	t.Helper()
	files[name] = path
	out, err := exec.CommandContext(ctx, "ldd", path).Output()
	if err != nil {
		t.Fatalf("ldd %s: %v", path, err)
	}
	for _, m := range library.FindAllStringSubmatch(string(out), -1) {
		files[strings.TrimPrefix(m[1], "/")] = m[1]
	}
}
