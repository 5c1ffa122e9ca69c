// Command crash kills arcstore at random moments and checks that nothing is lost.
//
// Child processes create, delete, prune, collect, reindex, verify and restore in one
// store and are killed with SIGKILL while they are at it. After each kill the
// store is opened and compared, byte by byte, with a model that lives outside of it.
//
//	go run ./bench/crash -kills 500
package main

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/signal"
	"slices"
	"time"
)

func main() {
	childMain()
	kills := flag.Int("kills", 500, "how many processes to kill")
	seed := flag.Uint64("seed", uint64(time.Now().UnixNano()), "seed of everything but the operating system's timing")
	mib := flag.Int("size", 48, "mean size of a guest's memory, in MiB; they have from half to four thirds of it")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *kills, *seed, *mib); err != nil {
		fmt.Fprintf(os.Stderr, "crash: seed %d: %v\n", *seed, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, kills int, seed uint64, mib int) error {
	dir, err := os.MkdirTemp("", "arcstore-crash-")
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "crash: seed %d, in %s\n", seed, dir)
	start := time.Now()
	h := newHarness(dir, seed, mib<<20/pageSize, os.Stderr)
	if err := h.run(ctx, kills); err != nil {
		return fmt.Errorf("%w (the store is kept in %s)", err, dir)
	}
	h.report(time.Since(start))
	return os.RemoveAll(dir)
}

// report prints where the kills came.
func (h *harness) report(took time.Duration) {
	sum := 0
	for _, what := range slices.Sorted(maps.Keys(h.killed)) {
		fmt.Printf("%6d  %s\n", h.killed[what], what)
		sum += h.killed[what]
	}
	fmt.Printf("%6d  kills, %d operations were done first, %d comparisons of size, nothing lost, in %s\n", sum, h.ended, h.checks, took.Round(time.Second))
}
