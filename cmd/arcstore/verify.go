package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/arcboxlabs/arcstore"
	"github.com/arcboxlabs/arcstore/cmd/client"
)

func newVerifyCommand(a *app) *cobra.Command {
	var data percentFlag
	var repairFrom string
	cmd := &cobra.Command{
		Use:   "verify [ID...]",
		Short: "Check that snapshots are whole",
		Long: `Verify checks that everything that snapshots need is there and sound, of those
named or of all. With --data it reads and verifies every byte; without, the tables alone.
With --data=10% it reads a tenth of the data, what was verified longest ago first: once
a night, that is everything in ten nights. It says what it read, and since when all
of it was.

It needs no lock and works beside a process that uses the store. It remembers what it
finds: the next create that meets a damaged chunk stores it anew, and a snapshot that lacks
something is listed as invalid until it is whole again. Damage that affects no snapshot,
such as that of a chunk stored anew, is damage found until gc drops or mends it.

With --repair-from, what is damaged or missing comes from a remote, as far as any snapshot
there has it; the store is locked meanwhile.`,
		Example: `  arcstore verify
  arcstore verify web-1@latest --data
  arcstore verify --data=10%
  arcstore verify --data --repair-from offsite`,
		Args:              takes(0, -1, "IDs or nothing"),
		ValidArgsFunction: atMost(-1, a.completeSnapshots),
		RunE: func(cmd *cobra.Command, args []string) error {
			if repairFrom != "" {
				if a.from != "" {
					return usagef("--repair-from mends the store, and --from verifies a remote")
				}
				return runRepair(cmd, a, data, args, repairFrom)
			}
			return runVerify(cmd.Context(), a, data, args)
		},
	}
	cmd.Flags().Var(&data, "data", "read and verify the data: all of it, or `PERCENT` of it")
	cmd.Flags().Lookup("data").NoOptDefVal = "100%"
	cmd.Flags().StringVar(&repairFrom, "repair-from", "", "get what is damaged from the remote `NAME`")
	must(cmd.RegisterFlagCompletionFunc("repair-from", a.completeRemotes))
	a.fromFlag(cmd)
	return exits(cmd, exitFailed, exitUsage, exitNotFound, exitDamage, exitInUse, exitInterrupted)
}

func runVerify(ctx context.Context, a *app, data percentFlag, ids []string) error {
	for _, id := range ids {
		if strings.HasSuffix(id, "%") {
			return usagef("%q is no ID: a part of the data is given as --data=%s", id, id)
		}
	}
	check := func(verify func(context.Context, *arcstore.VerifyOptions) (*arcstore.VerifyReport, error)) error {
		p := a.progress()
		defer p.close()
		report, err := verify(ctx, &arcstore.VerifyOptions{Snapshots: ids, Data: data > 0, Percent: float64(data), Progress: p.report()})
		p.close()
		if err != nil {
			return err
		}
		if err := a.result(report, func(w io.Writer) { printVerify(w, report) }); err != nil {
			return err
		}
		if len(report.Damage) > 0 {
			hint := "no snapshot is affected, and gc drops damaged packs"
			for _, d := range report.Damage {
				if len(d.Snapshots) > 0 {
					hint = "snapshots that are not named are whole; restore --allow-damaged gets what can be had of those that are"
				}
			}
			if a.from != "" {
				hint = "remote gc notes what is lost, and push, from a host that has it, sends it again"
			}
			return hinted{fmt.Errorf("%w: %s", errDamage, plural(len(report.Damage), "thing is wrong", "things are wrong")), hint}
		}
		return nil
	}
	if a.from == "" {
		// Who holds the store can write down what is found.
		if c, err := client.Dial(ctx, a.store); err == nil {
			defer c.Close()
			return check(c.Verify)
		}
	}
	return a.read(ctx, func(m *arcstore.Manager) error { return check(m.Verify) })
}

func runRepair(cmd *cobra.Command, a *app, data percentFlag, ids []string, remote string) error {
	ctx := cmd.Context()
	return a.write(cmd, func(h holder) error {
		p := a.progress()
		defer p.close()
		report, err := h.RepairFrom(ctx, remote, &arcstore.VerifyOptions{Snapshots: ids, Data: data > 0, Percent: float64(data), Progress: p.report()}, a.events(p))
		p.close()
		if err != nil {
			return err
		}
		if err := a.result(report, func(w io.Writer) { printRepair(w, report) }); err != nil {
			return err
		}
		if len(report.Left) > 0 {
			return hinted{fmt.Errorf("%w: %s could not be repaired", errDamage, plural(len(report.Left), "snapshot", "snapshots")),
				"restore --allow-damaged gets what can be had of them"}
		}
		if len(report.Found.Damage) > 0 {
			a.note("gc drops what is left of the damage")
		}
		return nil
	})
}

func printRepair(w io.Writer, r *arcstore.RepairReport) {
	printVerify(w, r.Found)
	if len(r.Found.Damage) == 0 {
		return
	}
	fmt.Fprintln(w)
	f := facts{}
	f.add("repaired", "%s", plural(len(r.Repaired), "snapshot", "snapshots"))
	f.add("fetched", "%s chunks, %s", count(r.Chunks), size(r.Bytes))
	f.print(w)
	for _, id := range slices.Sorted(maps.Keys(r.Left)) {
		fmt.Fprintf(w, "\nnot repaired: %s\n  %s\n", printable(id), printable(r.Left[id]))
	}
}

func printVerify(w io.Writer, r *arcstore.VerifyReport) {
	f := facts{}
	f.add("snapshots", "%s", count(r.Snapshots))
	f.add("packs", "%s", count(r.Packs))
	f.add("chunks", "%s", count(r.Chunks))
	f.add("read", "%s", size(r.BytesRead))
	if c := r.Coverage; c.Packs > 0 {
		f.add("verified", "%s of %s", size(c.Bytes), size(c.Total))
		since := "-"
		if c.Since != nil {
			since = moment(*c.Since)
		}
		if c.Never > 0 {
			since += ", but for " + size(c.Never) + " that never was"
		}
		f.add("all since", "%s", since)
	}
	f.add("took", "%s", took(r.Duration))
	if len(r.Damage) == 0 {
		f.add("damage", "none")
	} else {
		f.add("damage", "%s", count(len(r.Damage)))
	}
	if r.Unnoted != "" {
		f.add("not noted", "%s", r.Unnoted)
	}
	f.print(w)
	for _, d := range r.Damage {
		fmt.Fprintf(w, "\n%s\n  %s\n", printable(d.What), printable(d.Why))
		for _, id := range d.Snapshots {
			fmt.Fprintf(w, "  affects snapshot %s\n", printable(id))
		}
	}
}

// percentFlag is a part in percent: "10%" or "10".
type percentFlag float64

func (p *percentFlag) String() string {
	if *p == 0 {
		return ""
	}
	return strconv.FormatFloat(float64(*p), 'g', -1, 64) + "%"
}

func (p *percentFlag) Set(text string) error {
	v, err := strconv.ParseFloat(strings.TrimSuffix(text, "%"), 64)
	if err != nil || !(v > 0 && v <= 100) {
		return fmt.Errorf("%q is not a part of the data, such as 10%%", text)
	}
	*p = percentFlag(v)
	return nil
}

func (p *percentFlag) Type() string { return "percent" }
