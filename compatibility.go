package arcstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/arcboxlabs/arcstore/capture"
	"github.com/arcboxlabs/arcstore/manifest"
)

// ErrIncompatible: a snapshot cannot go on here.
var ErrIncompatible = errors.New("the snapshot cannot go on here")

// Host is what a snapshot was taken on, as far as that decides where it can go on.
type Host = manifest.Host

// Compatibility says whether a snapshot can go on, on this machine.
type Compatibility struct {
	Snapshot string    `json:"snapshot"`
	Taken    *Host     `json:"taken"` // nil where it is not known
	Here     *Host     `json:"here"`
	Problems []Problem `json:"problems"`
}

// Problem is a difference between two hosts.
type Problem struct {
	What string `json:"what"` // architecture, page size, cpu, kernel, criu or vmm
	Why  string `json:"why"`  // a sentence
	// Fatal says that what goes on here would fail, now or later. Otherwise it may.
	Fatal bool `json:"fatal"`
}

// Fatal returns an error that wraps ErrIncompatible and says what is fatal; nil if nothing is.
func (c *Compatibility) Fatal() error {
	var all []string
	for _, p := range c.Problems {
		if p.Fatal {
			all = append(all, p.Why)
		}
	}
	if len(all) == 0 {
		return nil
	}
	return fmt.Errorf("arcstore: snapshot %s: %w: %s", c.Snapshot, ErrIncompatible, strings.Join(all, "; "))
}

// CheckOptions say where a snapshot is to go on, where that is not known.
type CheckOptions struct {
	// VMM and VMMVersion are what would run it, such as "qemu" and "7.2"; "" is not checked.
	VMM, VMMVersion string
}

// Check compares what a snapshot was taken on with this machine. It writes nothing. Of snapshots that have no record of it, nothing is known.
func (m *Manager) Check(ctx context.Context, ref string, opts *CheckOptions) (*Compatibility, error) {
	if opts == nil {
		opts = &CheckOptions{}
	}
	e, err := m.getComplete(ctx, ref)
	if err != nil {
		return nil, err
	}
	here := capture.ThisHost()
	here.VMM, here.VMMVersion = opts.VMM, opts.VMMVersion
	if e.TargetType == manifest.Container {
		here.CRIU = capture.CRIUVersion(ctx) // "" where there is none, which is said by what would run it
	}
	c := &Compatibility{Snapshot: e.ID, Taken: e.Host, Here: here, Problems: []Problem{}}
	if e.Host != nil {
		c.compare(e.Host, here, e.TargetType == manifest.Container)
	}
	return c, nil
}

func (c *Compatibility) add(fatal bool, what, format string, args ...any) {
	c.Problems = append(c.Problems, Problem{What: what, Why: fmt.Sprintf(format, args...), Fatal: fatal})
}

// compare finds what is different and matters.
func (c *Compatibility) compare(taken, here *Host, processes bool) {
	if taken.Architecture != here.Architecture {
		c.add(true, "architecture", "it was taken on %s, and this machine is %s", taken.Architecture, here.Architecture)
		return // nothing else can be compared
	}
	if processes && taken.PageSize != here.PageSize {
		c.add(true, "page size", "it has pages of %d bytes, and this kernel of %d", taken.PageSize, here.PageSize)
	}
	if lacks := lackingFlags(taken.Flags, here.Flags); len(lacks) > 0 {
		// What runs looked once at what the CPU can do. An emulated guest had another CPU, which nobody told.
		c.add(processes, "cpu", "this CPU (%s) lacks what that of %s had: %s", orUnknown(here.CPU), orUnknown(taken.CPU), strings.Join(lacks, " "))
	}
	if processes && olderThan(here.Kernel, taken.Kernel) {
		c.add(false, "kernel", "this kernel is %s, and that was %s: what it had open may not be known here", here.Kernel, taken.Kernel)
	}
	if olderThan(here.CRIU, taken.CRIU) {
		c.add(true, "criu", "CRIU here is %s, and cannot be relied on to read what %s wrote", here.CRIU, taken.CRIU)
	}
	if taken.VMM != "" && here.VMM != "" {
		switch {
		case taken.VMM != here.VMM:
			c.add(true, "vmm", "it is a guest of %s's, and not of %s's", taken.VMM, here.VMM)
		case olderThan(here.VMMVersion, taken.VMMVersion):
			c.add(true, "vmm", "%s %s cannot read the state that %s wrote", here.VMM, here.VMMVersion, taken.VMMVersion)
		}
	}
}

func orUnknown(s string) string {
	if s == "" {
		return "unknown"
	}
	return s
}

// instructions are the CPU's flags that programs find out about and then use, by how they begin: what lacks one of them ends a program that has
// chosen by it. Others say what a kernel does, or what is fast. (arch/x86/include/asm/cpufeatures.h names them all.)
var instructions = []string{"sse", "ssse3", "pni", "avx", "aes", "vaes", "pclmulqdq", "vpclmulqdq", "bmi", "fma", "f16c", "movbe", "popcnt", "abm", "adx", "sha_ni", "sha1", "sha2",
	"sha3", "sha512", "gfni", "amx", "xsave", "xgetbv1", "rdrand", "rdseed", "rdpid", "clflushopt", "clwb", "fsgsbase", "lahf_lm", "cx16", "tbm", "xop", "3dnowprefetch", "serialize", "movdir",
	"asimd", "crc32", "atomics", "sve", "sme", "lrcpc", "dcpop", "fp", "bf16", "i8mm", "paca", "pacg", "bti"}

// lackingFlags returns the instructions that one CPU has and another lacks.
func lackingFlags(taken, here string) (lacks []string) {
	have := strings.Fields(here)
	if len(have) == 0 {
		return nil // not known
	}
	for _, flag := range strings.Fields(taken) {
		if slices.ContainsFunc(instructions, func(i string) bool { return strings.HasPrefix(flag, i) }) && !slices.Contains(have, flag) {
			lacks = append(lacks, flag)
		}
	}
	return lacks
}

// olderThan compares the first two numbers of versions; what is not known is not older.
func olderThan(a, b string) bool {
	a1, a2, okA := firstNumbers(a)
	b1, b2, okB := firstNumbers(b)
	return okA && okB && (a1 < b1 || a1 == b1 && a2 < b2)
}

func firstNumbers(version string) (major, minor int, ok bool) {
	first, rest, _ := strings.Cut(version, ".")
	second := rest[:len(rest)-len(strings.TrimLeft(rest, "0123456789"))]
	major, err := strconv.Atoi(first)
	if err != nil {
		return 0, 0, false
	}
	minor, _ = strconv.Atoi(second) // none is 0
	return major, minor, true
}
