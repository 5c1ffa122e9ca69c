package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/arcboxlabs/arcstore"
)

func newDiffCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "diff A B",
		Short: "Compare two snapshots",
		Long: `Diff compares two snapshots stream by stream, without reading their data: how
much is the same, CHANGED, ADDED where A has nothing but zeros, REMOVED where B has.`,
		Example:           `  arcstore diff 7f3a09c1 web-1@latest`,
		Args:              takes(2, 2, "two IDs"),
		ValidArgsFunction: atMost(2, a.completeSnapshots),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runDiff(cmd.Context(), a, args[0], args[1])
		},
	}
	a.fromFlag(cmd)
	return exits(cmd, exitFailed, exitUsage, exitNotFound, exitDamage, exitInterrupted)
}

func runDiff(ctx context.Context, a *app, from, to string) error {
	return a.read(ctx, func(m *arcstore.Manager) error {
		report, err := m.Diff(ctx, from, to)
		if err != nil {
			return err
		}
		return a.result(report, func(w io.Writer) {
			fmt.Fprintf(w, "a  %s\nb  %s\n\n", report.A, report.B)
			t := newTable("STREAM", ">SIZE A", ">SIZE B", ">SAME", ">CHANGED", ">ADDED", ">REMOVED")
			for _, s := range report.Streams {
				t.add(s.Name, sizeIfAny(s.SizeA), sizeIfAny(s.SizeB), size(s.Same), size(s.Changed), size(s.Added), size(s.Removed))
			}
			t.print(w)
		})
	})
}

// sizeIfAny writes the size of a stream that may be missing, which is -1.
func sizeIfAny(n int64) string {
	if n < 0 {
		return "-"
	}
	return size(n)
}
