package main

import (
	"io"

	"github.com/spf13/cobra"
)

func newReindexCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "reindex",
		Short: "Make the index again",
		Long: `Reindex makes the index again from the packs alone. No snapshot depends on the
index; it only finds fast what is stored already.`,
		Example:           "  arcstore reindex",
		Args:              takes(0, 0, "no arguments"),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runReindex(cmd, a)
		},
	}
	return exits(cmd, exitFailed, exitUsage, exitDamage, exitInUse, exitInterrupted)
}

func runReindex(cmd *cobra.Command, a *app) error {
	return a.write(cmd, func(h holder) error {
		report, err := h.Reindex(cmd.Context())
		if err != nil {
			return err
		}
		return a.result(report, func(w io.Writer) {
			f := facts{}
			f.add("packs", "%s", count(report.Packs))
			f.add("chunks", "%s", count(report.Chunks))
			f.add("took", "%s", took(report.Duration))
			f.print(w)
		})
	})
}
