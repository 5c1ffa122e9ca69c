package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/arcboxlabs/arcstore"
	"github.com/arcboxlabs/arcstore/manifest"
)

// A program under the race detector waits a second before it ends, for reports that are on
// their way; the many that these tests start need not.
const raceVariable, raceOptions = "GORACE", "atexit_sleep_ms=10"

func TestMain(m *testing.M) {
	os.Setenv(raceVariable, raceOptions)
	testscript.Main(m, map[string]func(){"arcstore": testMain, writerProgram: writerMain})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: filepath.Join("testdata", "script"), Setup: setupScript, Cmds: scriptCommands, Condition: scriptCondition(false)})
}

// TestServedScripts runs the same scripts, and each command in them beside a process that holds the store and answers for it.
func TestServedScripts(t *testing.T) {
	served := func(env *testscript.Env) error {
		env.Setenv(servedVariable, "yes")
		return setupScript(env)
	}
	testscript.Run(t, testscript.Params{Dir: filepath.Join("testdata", "script"), Setup: served, Cmds: scriptCommands, Condition: scriptCondition(true)})
}

// scriptCondition is for lines of scripts that hold only where another process serves the store, "[served]", or only where none does.
func scriptCondition(served bool) func(string) (bool, error) {
	return func(condition string) (bool, error) {
		if condition != "served" {
			return false, fmt.Errorf("there is no condition %q", condition)
		}
		return served, nil
	}
}

func setupScript(env *testscript.Env) error {
	env.Setenv("ARCSTORE_DIR", filepath.Join(env.WorkDir, "store"))
	env.Setenv("TZ", "UTC")
	env.Setenv(raceVariable, raceOptions)
	return nil
}

var scriptCommands = map[string]func(*testscript.TestScript, bool, []string){
	"mkmem":      scriptMakeMemory,
	"touchmem":   scriptTouchMemory,
	"exits":      scriptExits,
	"json":       scriptJSON,
	"hold":       scriptHold,
	"cloneentry": scriptCloneEntry,
	"sparse":     scriptSparse,
	"mkimages":   scriptMakeImages,
	"damage":     scriptDamage,
	"s3":         scriptServer,
	"until":      scriptUntil,
	"otherhost":  scriptOtherHost,
	"tell":       scriptTell,
	"config":     scriptConfig,
}

// scriptMakeMemory is "mkmem FILE PAGES SEED": an image of a third text, a third random bytes and a third holes.
func scriptMakeMemory(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 3 {
		ts.Fatalf("usage: mkmem FILE PAGES SEED")
	}
	pages, seed := scriptInt(ts, args[1]), scriptInt(ts, args[2])
	rng := rand.New(rand.NewPCG(uint64(seed), 0))
	f, err := os.Create(ts.MkAbs(args[0]))
	ts.Check(err)
	defer f.Close()
	ts.Check(f.Truncate(int64(pages) * dirtyPage))
	for page := range pages {
		if page%3 < 2 {
			scriptWritePage(ts, f, rng, page)
		}
	}
}

// scriptTouchMemory is "touchmem FILE SEED N [BITMAP]": N pages, but the first, change, and the bitmap says which.
func scriptTouchMemory(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) < 3 {
		ts.Fatalf("usage: touchmem FILE SEED N [BITMAP]")
	}
	seed, n := scriptInt(ts, args[1]), scriptInt(ts, args[2])
	rng := rand.New(rand.NewPCG(uint64(seed), 1))
	f, err := os.OpenFile(ts.MkAbs(args[0]), os.O_RDWR, 0)
	ts.Check(err)
	defer f.Close()
	info, err := f.Stat()
	ts.Check(err)
	pages := int(info.Size() / dirtyPage)
	bitmap := make([]byte, (pages+7)/8)
	for _, i := range rng.Perm(pages - 1)[:n] {
		page := i + 1
		scriptWritePage(ts, f, rng, page)
		bitmap[page/8] |= 1 << (page % 8)
	}
	if len(args) > 3 {
		ts.Check(os.WriteFile(ts.MkAbs(args[3]), bitmap, 0o600))
	}
}

func scriptWritePage(ts *testscript.TestScript, f *os.File, rng *rand.Rand, page int) {
	text := rng.IntN(2) == 0
	var b []byte
	for len(b) < dirtyPage {
		if text {
			b = fmt.Appendf(b, "page %d line %d of many, all of them much the same\n", page, rng.IntN(1000))
		} else {
			b = append(b, byte(rng.Uint32()))
		}
	}
	_, err := f.WriteAt(b[:dirtyPage], int64(page)*dirtyPage)
	ts.Check(err)
}

// scriptExits is "exits CODE COMMAND...": the command ends with just that code.
func scriptExits(ts *testscript.TestScript, _ bool, args []string) {
	want := scriptInt(ts, args[0])
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// scriptJSON is "json PATH VALUE", which compares a value in the JSON on the
// last command's stdout, and "json PATH -> VARIABLE", which keeps it. A path is
// like "0.cost.bytes_new"; where it ends in "len" it means a length.
func scriptJSON(ts *testscript.TestScript, neg bool, args []string) {
	d := json.NewDecoder(strings.NewReader(ts.ReadFile("stdout")))
	d.UseNumber()
	var v any
	ts.Check(d.Decode(&v))
	if d.More() {
		ts.Fatalf("stdout has more than one JSON document")
	}
	for _, key := range strings.Split(args[0], ".") {
		switch at := v.(type) {
		case map[string]any:
			if key == "len" {
				v = len(at)
			} else {
				v = at[key]
			}
		case []any:
			if key == "len" {
				v = len(at)
			} else if i := scriptInt(ts, key); i < len(at) {
				v = at[i]
			} else {
				v = nil
			}
		default:
			v = nil
		}
	}
	text := fmt.Sprint(v)
	switch {
	case len(args) == 3 && args[1] == "->":
		ts.Setenv(args[2], text)
	case len(args) != 2:
		ts.Fatalf("usage: json PATH VALUE, json PATH -> VARIABLE")
	case (text == args[1]) == neg:
		ts.Fatalf("%s is %q", args[0], text)
	}
}

// scriptHold is "hold HOLDER": this process holds the store until the script ends.
func scriptHold(ts *testscript.TestScript, _ bool, args []string) {
	m, err := arcstore.Open(context.Background(), ts.Getenv("ARCSTORE_DIR"), &arcstore.Options{Holder: args[0]})
	ts.Check(err)
	ts.Defer(func() { m.Close() })
}

// scriptCloneEntry is "cloneentry ID NEW [STATE]": another catalogue entry with the same manifest.
func scriptCloneEntry(ts *testscript.TestScript, _ bool, args []string) {
	ctx := context.Background()
	c := manifest.OpenCatalogue(filepath.Join(ts.Getenv("ARCSTORE_DIR"), "snapshots"), nil)
	e, err := c.Get(ctx, args[0])
	ts.Check(err)
	e.ID = args[1]
	if len(args) > 2 {
		e.State = manifest.State(args[2])
	}
	ts.Check(c.Put(ctx, e, false))
}

// scriptUntil is "until COMMAND...": it is run until it succeeds and prints something more than a heading.
func scriptUntil(ts *testscript.TestScript, _ bool, args []string) {
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		err := ts.Exec(args[0], args[1:]...)
		if err == nil && strings.Count(ts.ReadFile("stdout"), "\n") > 1 {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("it never succeeds: %v", err)
		}
	}
}

// scriptOtherHost is "otherhost TARGET": its newest snapshot was taken on quite another machine.
func scriptOtherHost(ts *testscript.TestScript, _ bool, args []string) {
	ctx := context.Background()
	c := manifest.OpenCatalogue(filepath.Join(ts.Getenv("ARCSTORE_DIR"), "snapshots"), nil)
	entries, err := c.List(ctx)
	ts.Check(err)
	for _, e := range entries {
		if e.TargetID == args[0] {
			e.Host = &manifest.Host{Architecture: "sparc", PageSize: 8192}
			ts.Check(c.Put(ctx, e, true))
		}
	}
}

// scriptTell is "tell SIGNAL": HUP, TERM or KILL for the process that holds the store.
func scriptTell(ts *testscript.TestScript, _ bool, args []string) {
	signals := map[string]syscall.Signal{"HUP": syscall.SIGHUP, "TERM": syscall.SIGTERM, "KILL": syscall.SIGKILL}
	var holder struct{ PID int }
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(filepath.Join(ts.Getenv("ARCSTORE_DIR"), "lock"))), &holder))
	ts.Check(syscall.Kill(holder.PID, signals[args[0]]))
}

// scriptConfig is "config FILE": a configuration with a schedule that works each second, one that fails, and a gc.
func scriptConfig(ts *testscript.TestScript, _ bool, args []string) {
	text := "schedules:\n" +
		"  - {name: web, snapshot: {files: {memory: " + ts.MkAbs("ram") + "}}, every: 1s, keep: {last: 2}}\n" +
		"  - {name: broken, snapshot: {qemu: {socket: /nowhere}}, cron: '0 0 1 1 *', retry: {times: 0}}\n" +
		"  - {name: gc, gc: {}, cron: '@yearly'}\n"
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(text), 0o600))
}

// scriptSparse is "sparse FILE": its holes take no space.
func scriptSparse(ts *testscript.TestScript, _ bool, args []string) {
	info, err := os.Stat(ts.MkAbs(args[0]))
	ts.Check(err)
	if used := info.Sys().(*syscall.Stat_t).Blocks * 512; used > info.Size()*3/4 {
		ts.Fatalf("%s takes %d bytes of %d", args[0], used, info.Size())
	}
}

// scriptDamage is "damage packs": the last quarter of the first frame of every pack changes.
func scriptDamage(ts *testscript.TestScript, _ bool, args []string) {
	dir := filepath.Join(ts.Getenv("ARCSTORE_DIR"), args[0])
	files, err := filepath.Glob(filepath.Join(dir, "*", "*"))
	ts.Check(err)
	if len(files) == 0 {
		files, err = filepath.Glob(filepath.Join(dir, "*.json"))
		ts.Check(err)
	}
	if len(files) == 0 {
		ts.Fatalf("there are no %s", args[0])
	}
	for _, name := range files {
		b, err := os.ReadFile(name)
		ts.Check(err)
		for i := min(1000, len(b)/2); i < min(1100, len(b)); i++ {
			b[i] ^= 0x55
		}
		ts.Check(os.WriteFile(name, b, 0o600))
	}
}

func scriptInt(ts *testscript.TestScript, s string) int {
	n, err := strconv.Atoi(s)
	ts.Check(err)
	return n
}
