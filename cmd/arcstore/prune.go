package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/arcboxlabs/arcstore"
)

type pruneOptions struct {
	keep   arcstore.Retention
	dryRun bool
}

func newPruneCommand(a *app) *cobra.Command {
	var opt pruneOptions
	cmd := &cobra.Command{
		Use:   "prune [TARGET] --keep-...",
		Short: "Delete the snapshots that a retention does not keep",
		Long: `Prune deletes, of one target or of each, the snapshots that none of the --keep
rules wants. The periods are hours, days, weeks from Monday, months and years of the
local time zone ($TZ); of each of the newest N that have a snapshot the newest one stays.

What is being created and the newest snapshot of a target always stay. A damaged
snapshot takes nobody's place. The space comes back with gc.`,
		Example: `  arcstore prune --keep-last 3 --keep-daily 7 --keep-weekly 4 --dry-run
  arcstore prune web-1 --keep-hourly 24 --keep-label pin=yes
  arcstore gc`,
		Args:              takes(0, 1, "a TARGET or nothing"),
		ValidArgsFunction: atMost(1, a.completeTargets),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := opt.check(cmd, args); err != nil {
				return err
			}
			return runPrune(cmd, a, opt, append(args, "")[0])
		},
	}
	opt.flags(cmd)
	return exits(cmd, exitFailed, exitUsage, exitNotFound, exitInUse, exitInterrupted)
}

// flags defines the flags of what prunes.
func (opt *pruneOptions) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	for _, rule := range []struct {
		name string
		n    *int
		what string
	}{
		{"last", &opt.keep.KeepLast, "the newest `N`"},
		{"hourly", &opt.keep.KeepHourly, "the newest of each of the last `N` hours that have one"},
		{"daily", &opt.keep.KeepDaily, "the newest of each of the last `N` days that have one"},
		{"weekly", &opt.keep.KeepWeekly, "the newest of each of the last `N` weeks that have one"},
		{"monthly", &opt.keep.KeepMonthly, "the newest of each of the last `N` months that have one"},
		{"yearly", &opt.keep.KeepYearly, "the newest of each of the last `N` years that have one"},
	} {
		f.IntVar(rule.n, "keep-"+rule.name, 0, "keep "+rule.what)
		must(cmd.RegisterFlagCompletionFunc("keep-"+rule.name, cobra.NoFileCompletions))
	}
	f.StringArrayVar(&opt.keep.KeepLabels, "keep-label", nil, "keep those with the label `K=V`, or K of any value; may be repeated")
	must(cmd.RegisterFlagCompletionFunc("keep-label", cobra.NoFileCompletions))
	f.BoolVar(&opt.dryRun, "dry-run", false, "only say what would go, and why the others stay")
}

// check is the retention's Validate, in words of the command line. targets is what was given of them.
func (opt *pruneOptions) check(cmd *cobra.Command, targets []string) error {
	if slices.Contains(targets, "") {
		return usagef("the TARGET is empty: leave it out for all of them")
	}
	var rules []string
	var negative error
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if !strings.HasPrefix(f.Name, "keep-") {
			return
		}
		rules = append(rules, "--"+f.Name)
		if n, err := strconv.Atoi(f.Value.String()); err == nil && n < 0 {
			negative = usagef("--%s %d is negative", f.Name, n)
		}
	})
	if negative != nil {
		return negative
	}
	k := opt.keep
	if k.KeepLast|k.KeepHourly|k.KeepDaily|k.KeepWeekly|k.KeepMonthly|k.KeepYearly == 0 && len(k.KeepLabels) == 0 {
		return usagef("prune would keep nothing: say what to keep with one or more of %s", strings.Join(rules, ", "))
	}
	return k.Validate()
}

func runPrune(cmd *cobra.Command, a *app, opt pruneOptions, target string) error {
	if opt.dryRun {
		return a.read(cmd.Context(), func(m *arcstore.Manager) error { return prune(cmd.Context(), a, opt, target, "gc", m.List, m.Prune) })
	}
	return a.write(cmd, func(h holder) error { return prune(cmd.Context(), a, opt, target, "gc", h.List, h.Prune) })
}

// prune deletes with the Prune of a store or a remote, whose snapshots list lists and whose garbage collector clears up.
func prune(ctx context.Context, a *app, opt pruneOptions, target, collector string,
	list func(context.Context, string) ([]*arcstore.Snapshot, error), run func(context.Context, arcstore.Retention, *arcstore.PruneOptions) (*arcstore.PruneReport, error)) error {
	if target != "" {
		// A name that is mistyped must not look like one with nothing to do.
		snapshots, err := list(ctx, target)
		if err != nil {
			return err
		}
		if len(snapshots) == 0 {
			return fmt.Errorf("%w of target %q", arcstore.ErrNotFound, target)
		}
	}
	report, err := run(ctx, opt.keep, &arcstore.PruneOptions{Target: target, DryRun: opt.dryRun})
	if err != nil {
		return err
	}
	if err := a.result(report, func(w io.Writer) { printPrune(w, report) }); err != nil {
		return err
	}
	if report.Removed > 0 && !opt.dryRun {
		a.note("%s gives back the space", collector)
	}
	return nil
}

func printPrune(w io.Writer, report *arcstore.PruneReport) {
	var snapshots []*arcstore.Snapshot
	for _, d := range report.Decisions {
		snapshots = append(snapshots, d.Snapshot)
	}
	if len(snapshots) > 0 {
		short := shortIDs(snapshots)
		t := newTable("", "ID", "TARGET", "CREATED", "NAME", "WHY")
		for _, d := range report.Decisions {
			verdict := "keep"
			if !d.Keep {
				verdict = "remove"
			}
			t.add(verdict, short(d.Snapshot.ID), d.Snapshot.TargetID, moment(d.Snapshot.Created), d.Snapshot.Name, strings.Join(d.Reasons, ", "))
		}
		t.print(w)
		fmt.Fprintln(w)
	}
	verb := "removed"
	if report.DryRun {
		verb = "would remove"
	}
	fmt.Fprintf(w, "%s %s, kept %s\n", verb, count(report.Removed), count(report.Kept))
}
