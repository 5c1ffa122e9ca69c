package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"
)

// status is how much of one part of the machine can be used. Scripts rely on the words.
type status string

const (
	statusOK      status = "ok"
	statusLimited status = "limited" // usable, but not in every way
	statusMissing status = "missing" // not there, or of no use
	statusUnknown status = "unknown" // the check itself failed
)

// finding is what a check found, and what to do where that is not all that it could be.
type finding struct {
	Status status `json:"status"`
	Found  string `json:"found"`
	Advice string `json:"advice,omitempty"`
}

// check looks at one part of the machine. It changes nothing. Its error is
// one of the check, not of the machine.
type check struct {
	name    string
	purpose string // what needs the part
	run     func(context.Context) (finding, error)
}

// diagnosis is the result of a check, as doctor prints it.
type diagnosis struct {
	Name string `json:"name"`
	For  string `json:"for"`
	finding
}

// childTime is how long a program that a check asks may take to answer.
const childTime = 10 * time.Second

func newDoctorCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Show what this machine can do, and what to do about the rest",
		Long: `Doctor looks at what snapshots of containers and virtual machines need: CRIU, features
of the kernel, hypervisors, the clock, and, where one is given, the store and its disk. It
really tries what it can, changes nothing and leaves nothing behind; CRIU, when asked, may
keep what it learned of the kernel in /run/criu.kdat.

STATUS is ok, limited (usable, but not in every way), missing (not there, or of no use) or
unknown (the check itself failed). Nobody needs everything: FOR says what needs the part;
"later versions" are for what no command does yet.
Whatever is missing, the exit code is 0; it is 1 where a check itself failed. With --json,
"ok" is true where every status is.`,
		Example: `  arcstore doctor
  sudo arcstore --store /var/lib/arcstore doctor
  arcstore doctor --json | jq -r '.checks[] | select(.status != "ok") | .name'`,
		Args:              takes(0, 0, "no arguments"),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runDoctor(cmd.Context(), a, machineChecks(a.store))
		},
	}
	return exits(cmd, exitFailed, exitUsage, exitInterrupted)
}

// machineChecks returns all checks, those of the store in dir only where dir is not "".
func machineChecks(dir string) []check {
	checks := []check{
		{"privileges", "containers", checkPrivileges},
		{"criu", "containers", checkCRIU},
		{"criu-check", "containers", checkKernelForCRIU},
		{"criu-features", "pre-dumps", checkCRIUFeatures},
		{"soft-dirty", "pre-dumps", checkSoftDirty},
		{"runc", "runc's containers", checkRunc},
		{"packet-filter", "open TCP connections", checkPacketFilter},
		{"userfaultfd", "later versions", checkUserfaultfd},
		{"fuse", "later versions", checkFUSE},
		{"kvm", "fast virtual machines", checkKVM},
		{"qemu", "QEMU's machines", checkQEMU},
	}
	checks = append(checks, otherHypervisors()...)
	if dir != "" {
		checks = append(checks, storeChecks(dir)...)
	}
	return append(checks,
		check{"temporary-directory", "scratch files", checkTemporaryDirectory},
		check{"clock", "times, retention", checkClock})
}

func runDoctor(ctx context.Context, a *app, checks []check) error {
	result := struct {
		Checks []diagnosis `json:"checks"`
		OK     bool        `json:"ok"`
	}{make([]diagnosis, 0, len(checks)), true}
	failed := 0
	for _, c := range checks {
		f, err := c.run(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			failed++
			f = finding{Status: statusUnknown, Found: problem(err)}
		}
		result.Checks = append(result.Checks, diagnosis{c.name, c.purpose, f})
		result.OK = result.OK && f.Status == statusOK
	}
	if err := a.result(result, func(w io.Writer) { printDiagnoses(w, result.Checks) }); err != nil {
		return err
	}
	if failed > 0 {
		return fmt.Errorf("%s could not be run", plural(failed, "check", "checks"))
	}
	return nil
}

func printDiagnoses(w io.Writer, all []diagnosis) {
	t, advice := newTable("CHECK", "FOR", "STATUS", "FOUND"), facts{}
	for _, d := range all {
		t.add(d.Name, d.For, string(d.Status), d.Found)
		if d.Advice != "" {
			advice.add("  "+d.Name, "%s", d.Advice)
		}
	}
	t.print(w)
	if len(advice.names) > 0 {
		fmt.Fprintf(w, "\nwhat to do, where it is needed\n")
		advice.print(w)
	}
}
