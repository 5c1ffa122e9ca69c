package main

import (
	"flag"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

var seed = flag.Uint64("seed", uint64(time.Now().UnixNano()), "seed of the crash test")

// TestKills is the short form of the program. It is built for it without the
// race detector, which would spend the time on making memories.
func TestKills(t *testing.T) {
	if testing.Short() {
		t.Skip("kills processes for some seconds")
	}
	program := filepath.Join(t.TempDir(), "crash")
	if out, err := exec.Command("go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v: %s", err, out)
	}
	out, err := exec.CommandContext(t.Context(), program, "-kills", "12", "-size", "24", "-seed", strconv.FormatUint(*seed, 10)).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Logf("%s", out)
}
