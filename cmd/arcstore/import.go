package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/arcboxlabs/arcstore"
)

func newImportCommand(a *app) *cobra.Command {
	var dryRun bool
	cmd := &cobra.Command{
		Use:   "import DIR",
		Short: "Take over the snapshots of arcbox-snapshot, arcstore's predecessor",
		Long: `Import takes over a tree of arcbox-snapshot's, with a directory for each snapshot: IDs, names,
descriptions, labels, times and parents stay what they are. DIR is left as it is.

An import that was cut off goes on when it is repeated. What was a placeholder without a
state, never finished, invalid or damaged is left out and named; if anything was damaged, the
exit code is 1.`,
		Example: `  arcstore import /var/lib/arcbox/snapshots --dry-run
  arcstore import /var/lib/arcbox/snapshots`,
		Args: takes(1, 1, "one DIR"),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveFilterDirs
		},
		RunE: func(cmd *cobra.Command, args []string) error { return runImport(cmd, a, args[0], dryRun) },
	}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only say what would be imported")
	return exits(cmd, exitFailed, exitUsage, exitInUse, exitInterrupted)
}

func runImport(cmd *cobra.Command, a *app, dir string, dryRun bool) error {
	run := func(ctx context.Context, imports func(context.Context, string, *arcstore.ImportOptions) (*arcstore.ImportReport, error)) error {
		p := a.progress()
		defer p.close()
		report, err := imports(ctx, dir, &arcstore.ImportOptions{DryRun: dryRun, Progress: p.report()})
		p.close()
		if err != nil {
			return err
		}
		if err := a.result(report, func(w io.Writer) { printImport(w, report) }); err != nil {
			return err
		}
		failed := 0
		for _, s := range report.Skipped {
			if s.Reason == arcstore.SkipFailed {
				failed++
			}
		}
		if failed > 0 {
			return fmt.Errorf("%s could not be imported", plural(failed, "snapshot", "snapshots"))
		}
		return nil
	}
	if dryRun {
		return a.read(cmd.Context(), func(m *arcstore.Manager) error { return run(cmd.Context(), m.ImportArcbox) })
	}
	return a.write(cmd, func(h holder) error { return run(cmd.Context(), h.ImportArcbox) })
}

func printImport(w io.Writer, r *arcstore.ImportReport) {
	f := facts{}
	imported := "imported"
	if r.DryRun {
		imported = "would be imported"
	}
	f.add(imported, "%s", count(len(r.Imported)))
	f.add("there before", "%s", count(len(r.Present)))
	f.add("left out", "%s", count(len(r.Skipped)))
	f.add("took", "%s", took(r.Duration))
	f.print(w)
	for _, s := range r.Skipped {
		fmt.Fprintf(w, "\n%s\n  %s: %s\n", printable(s.Dir), s.Reason, printable(plain(fmt.Errorf("%s", s.Why))))
	}
}
