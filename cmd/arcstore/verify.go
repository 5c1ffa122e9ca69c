package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/arcboxlabs/arcstore"
)

func newVerifyCommand(a *app) *cobra.Command {
	var data bool
	cmd := &cobra.Command{
		Use:   "verify [ID...]",
		Short: "Check that snapshots are whole",
		Long: `Verify checks that everything that snapshots need is there and sound, of those
named or of all. With --data it reads and verifies every byte; without, the tables alone.
It changes nothing, needs no lock, and works beside a process that uses the store.`,
		Example: `  arcstore verify
  arcstore verify web-1@latest --data`,
		Args:              takes(0, -1, "IDs or nothing"),
		ValidArgsFunction: atMost(-1, a.completeSnapshots),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runVerify(cmd.Context(), a, data, args)
		},
	}
	cmd.Flags().BoolVar(&data, "data", false, "read and verify all data")
	return exits(cmd, exitFailed, exitUsage, exitNotFound, exitDamage, exitInterrupted)
}

func runVerify(ctx context.Context, a *app, data bool, ids []string) error {
	return a.read(ctx, func(m *arcstore.Manager) error {
		p := a.progress()
		defer p.close()
		report, err := m.Verify(ctx, &arcstore.VerifyOptions{Snapshots: ids, Data: data, Progress: p.report()})
		p.close()
		if err != nil {
			return err
		}
		if err := a.result(report, func(w io.Writer) { printVerify(w, report) }); err != nil {
			return err
		}
		if len(report.Damage) > 0 {
			return hinted{
				fmt.Errorf("%w: %s", errDamage, plural(len(report.Damage), "thing is wrong", "things are wrong")),
				"snapshots that are not named are whole; those that are cannot be restored completely",
			}
		}
		return nil
	})
}

func printVerify(w io.Writer, r *arcstore.VerifyReport) {
	f := facts{}
	f.add("snapshots", "%s", count(r.Snapshots))
	f.add("packs", "%s", count(r.Packs))
	f.add("chunks", "%s", count(r.Chunks))
	f.add("read", "%s", size(r.BytesRead))
	f.add("took", "%s", took(r.Duration))
	if len(r.Damage) == 0 {
		f.add("damage", "none")
	} else {
		f.add("damage", "%s", count(len(r.Damage)))
	}
	f.print(w)
	for _, d := range r.Damage {
		fmt.Fprintf(w, "\n%s\n  %s\n", printable(d.What), printable(d.Why))
		for _, id := range d.Snapshots {
			fmt.Fprintf(w, "  affects snapshot %s\n", printable(id))
		}
	}
}
