package guest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Inputs are the memories that the benchmarks work on, all of the [Busy] image: A1 and A2 of one guest, 45 seconds apart,
// B1 of another one that runs on other data.
type Inputs struct {
	A1, A2, B1 Dump
}

// A Dump is a guest at one moment. Its files belong to the cache: copy them before a guest is started on them.
type Dump struct {
	Memory      string // path of the RAM: 1 GiB, sparse
	DeviceState string // path of the rest, for [Options.Incoming]
}

// benchMemoryBytes is the RAM of the guests that are dumped.
const benchMemoryBytes = 1 << 30

// How long a guest runs from "ready" to its first dump, and from one dump to the next.
const (
	settleTime = 35 * time.Second
	changeTime = 45 * time.Second
)

// BenchInputs returns the benchmarks' inputs. The first call takes about three minutes and 1.25 GB of memory, and writes a
// line to progress (nil: none) at every step; it leaves 1 GB in cacheDir (empty: [DefaultCacheDir]), where later calls
// find it. Where a part is missing the error is a [MissingError].
func BenchInputs(ctx context.Context, cacheDir string, progress io.Writer) (Inputs, error) {
	recipe := recipes[Busy].digest() + fmt.Sprint(benchMemoryBytes, settleTime, changeTime)
	digest := sha256.Sum256([]byte(recipe))
	dir, err := cached(ctx, cacheDir, "inputs-"+hex.EncodeToString(digest[:6]), func(dir string) error {
		return makeInputs(ctx, cacheDir, inputsIn(dir), progress)
	})
	if err != nil {
		return Inputs{}, fmt.Errorf("guest: bench inputs: %w", err)
	}
	return inputsIn(dir), nil
}

func inputsIn(dir string) Inputs {
	dump := func(name string) Dump {
		return Dump{Memory: filepath.Join(dir, name+".mem"), DeviceState: filepath.Join(dir, name+".devstate")}
	}
	return Inputs{A1: dump("A1"), A2: dump("A2"), B1: dump("B1")}
}

func makeInputs(ctx context.Context, cacheDir string, inputs Inputs, progress io.Writer) error {
	began := time.Now()
	say := func(format string, args ...any) {
		if progress != nil {
			fmt.Fprintf(progress, "%5.1fs  %s\n", time.Since(began).Seconds(), fmt.Sprintf(format, args...))
		}
	}
	say("preparing the image")
	image, err := Prepare(ctx, cacheDir, Busy)
	if err != nil {
		return err
	}
	// One after the other: two emulated CPUs at once would slow each other down.
	if err := dumpGuest(ctx, image, 1, []Dump{inputs.A1, inputs.A2}, say); err != nil {
		return err
	}
	return dumpGuest(ctx, image, 2, []Dump{inputs.B1}, say)
}

// dumpGuest boots a guest and writes one dump after the other.
func dumpGuest(ctx context.Context, image Image, seed uint32, dumps []Dump, say func(string, ...any)) error {
	say("guest %d: booting", seed)
	g, err := Start(ctx, image, &Options{MemoryBytes: benchMemoryBytes, Seed: seed})
	if err != nil {
		return err
	}
	defer g.Close()
	// Its name is not needed any more, and without one its 1 GiB cannot outlive a killed process.
	if err := os.Remove(g.MemoryPath()); err != nil {
		return err
	}
	if _, err := g.WaitFor(ctx, func(line string) bool { return line == "ready" }); err != nil {
		return err
	}
	pause := settleTime
	for _, dump := range dumps {
		say("guest %d: working for %v", seed, pause)
		if err := letWork(ctx, g, pause); err != nil {
			return err
		}
		pause = changeTime
		if err := dumpOnce(ctx, g, dump); err != nil {
			return err
		}
		say("guest %d: dumped to %s", seed, filepath.Base(dump.Memory))
	}
	return g.Close()
}

// letWork waits for d while a guest works. It fails when the guest says anything but its count, which would be the last
// words of a part of its work.
func letWork(ctx context.Context, g *Guest, d time.Duration) error {
	working, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	line, err := g.WaitFor(working, func(line string) bool { return !strings.HasPrefix(line, "count ") })
	switch {
	case err == nil:
		return fmt.Errorf("the guest says %q", line)
	case ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded):
		return nil
	}
	return err
}

// dumpOnce dumps a running guest, which then runs on.
func dumpOnce(ctx context.Context, g *Guest, dump Dump) error {
	if err := g.Pause(ctx); err != nil {
		return err
	}
	if err := g.SaveDeviceState(ctx, dump.DeviceState); err != nil {
		return err
	}
	if err := g.CopyMemory(ctx, dump.Memory); err != nil {
		return err
	}
	// Read-only, lest a guest be started on the cached file itself.
	if err := os.Chmod(dump.Memory, 0o400); err != nil {
		return err
	}
	return g.Resume(ctx)
}
