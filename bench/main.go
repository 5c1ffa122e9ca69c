// Command bench measures arcstore against the plain tools and against what the machine could do, on the memory of real
// guests:
//
//	go run ./bench                    everything, on guests that it boots itself in QEMU (once, three minutes)
//	go run ./bench -only first,next   some steps
//	go run ./bench remote             pushes and restores through S3 servers on this machine, versitygw and MinIO
//	go run ./bench lazy               guests that run before their memory is there: page faults, and a mount
//	go run ./bench -input A1 A2 B1    on dumps of your own: two of one guest, one of another
//
// Every figure that is compared is measured in this run, in interleaved rounds; the medians are compared. It prints a
// table and, with -out, writes the results as JSON. Steps that miss their bar make it exit with 1.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/arcboxlabs/arcstore/bench/guest"
)

// bench is one run.
type bench struct {
	ctx     context.Context
	dir     string // scratch, on the disk to be measured
	inputs  []string
	rounds  int
	chain   int // snapshots in the chain
	chunks  int64
	results []Result
}

// Result is one figure and the bar that it is held to.
type Result struct {
	Step   string             `json:"step"`
	What   string             `json:"what"`
	Value  float64            `json:"value"`
	Bar    float64            `json:"bar,omitempty"`    // 0: none
	AtMost bool               `json:"at_most"`          // the bar is an upper one
	Detail map[string]float64 `json:"detail,omitempty"` // medians in seconds, bytes and such, by name
}

// OK reports whether the bar is kept.
func (r *Result) OK() bool {
	return r.Bar == 0 || (r.AtMost && r.Value <= r.Bar) || (!r.AtMost && r.Value >= r.Bar)
}

// Report is what -out writes.
type Report struct {
	Time    time.Time `json:"time"`
	Commit  string    `json:"commit"`
	Command []string  `json:"command"`
	CPU     string    `json:"cpu"`
	Cores   int       `json:"cores"`
	Go      string    `json:"go"`
	Inputs  []string  `json:"inputs"`
	Rounds  int       `json:"rounds"`
	Results []Result  `json:"results"`
}

var steps = []struct {
	name string
	run  func(*bench) error
}{
	{"speed", (*bench).speed},
	{"sync", (*bench).sync},
	{"bytes", (*bench).bytes},
	{"memory", (*bench).memory},
	{"chain", (*bench).chainStep},
	{"scale", (*bench).scale},
	{"pause", (*bench).pause},
	{"latency", (*bench).latency},
	{"working-set", (*bench).workingSet},
	{"clones", (*bench).clones},
	{"first-page", (*bench).firstPage},
	{"remote", (*bench).remote},
}

// lazySteps are those of guests that run before their memory is there.
var lazySteps = []string{"latency", "working-set", "clones", "first-page"}

func main() {
	if len(os.Args) > 1 && os.Args[1] == childArg {
		child(os.Args[2:])
		return
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run() error {
	var names []string
	for _, s := range steps {
		if s.name != "remote" && !slices.Contains(lazySteps, s.name) { // which need servers
			names = append(names, s.name)
		}
	}
	only := flag.String("only", strings.Join(names, ","), "steps to run")
	input := flag.Bool("input", false, "the arguments are memory dumps: two of one guest, one of another")
	rounds := flag.Int("rounds", 5, "rounds of each measurement")
	chain := flag.Int("chain", 2500, "snapshots in the chain")
	chunks := flag.Int64("chunks", 10_000_000, "chunks in the large store")
	dir := flag.String("dir", os.TempDir(), "where stores are made and files restored")
	out := flag.String("out", "", "file for the results as JSON")
	if len(os.Args) > 1 && (os.Args[1] == "remote" || os.Args[1] == "lazy") {
		if *only = os.Args[1]; *only == "lazy" {
			*only = strings.Join(lazySteps, ",")
		}
		os.Args = append(os.Args[:1:1], os.Args[2:]...)
	}
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	b := &bench{ctx: ctx, rounds: *rounds, chain: *chain, chunks: *chunks}
	if *input {
		if b.inputs = flag.Args(); len(b.inputs) != 3 {
			return fmt.Errorf("-input takes three files, not %d", len(b.inputs))
		}
	} else {
		in, err := guest.BenchInputs(ctx, "", os.Stderr)
		if err != nil {
			return err
		}
		b.inputs = []string{in.A1.Memory, in.A2.Memory, in.B1.Memory}
	}
	var err error
	if b.dir, err = os.MkdirTemp(*dir, "arcstore-bench-"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	for _, s := range steps {
		if slices.Contains(strings.Split(*only, ","), s.name) {
			fmt.Fprintf(os.Stderr, "bench: %s\n", s.name)
			if err := s.run(b); err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
		}
	}
	if *out != "" {
		if err := b.write(*out); err != nil {
			return err
		}
	}
	return b.print()
}

func (b *bench) add(r Result) { b.results = append(b.results, r) }

// print shows the table, and returns an error if a bar was missed.
func (b *bench) print() error {
	missed := 0
	for i := range b.results {
		r := &b.results[i]
		bar, mark := "", ""
		if r.Bar != 0 {
			sign := "≥"
			if r.AtMost {
				sign = "≤"
			}
			bar, mark = fmt.Sprintf("%s %g", sign, r.Bar), "ok"
			if !r.OK() {
				mark = "MISSED"
				missed++
			}
		}
		fmt.Printf("%-8s %-66s %10.3f  %-8s %s\n", r.Step, r.What, r.Value, bar, mark)
		names := make([]string, 0, len(r.Detail))
		for name := range r.Detail {
			names = append(names, name)
		}
		slices.Sort(names)
		for _, name := range names {
			fmt.Printf("%9s%-66s %10.4g\n", "", "  "+name, r.Detail[name])
		}
	}
	if missed > 0 {
		return fmt.Errorf("%d of %d figures miss their bar", missed, len(b.results))
	}
	return nil
}

func (b *bench) write(name string) error {
	r := Report{Time: time.Now().UTC().Truncate(time.Second), Command: append([]string{"go", "run", "./bench"}, os.Args[1:]...),
		CPU: cpuModel(), Cores: runtime.NumCPU(), Go: runtime.Version(), Rounds: b.rounds, Results: b.results}
	if commit, err := exec.CommandContext(b.ctx, "git", "rev-parse", "HEAD").Output(); err == nil {
		r.Commit = strings.TrimSpace(string(commit))
	}
	for _, in := range b.inputs {
		r.Inputs = append(r.Inputs, in[strings.LastIndexByte(in, '/')+1:])
	}
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(name, append(data, '\n'), 0o644)
}

func cpuModel() string {
	b, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(b)) {
		if name, ok := strings.CutPrefix(line, "model name"); ok {
			return strings.TrimSpace(strings.TrimLeft(name, "\t: "))
		}
	}
	return runtime.GOARCH
}

// median returns the middle one.
func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	if len(sorted) == 0 {
		return 0
	}
	return sorted[len(sorted)/2]
}
