package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"
)

func newDeleteCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "delete ID...",
		Aliases: []string{"rm"},
		Short:   "Delete snapshots",
		Long: `Delete deletes snapshots; all must exist, or none is deleted. Others that
descend from them stay whole. The space comes back with gc.`,
		Example: `  arcstore delete 7f3a09c1 91bb04de
  arcstore gc`,
		Args:              takes(1, -1, "one ID or more"),
		ValidArgsFunction: atMost(-1, a.completeSnapshots),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runDelete(cmd, a, args)
		},
	}
	return exits(cmd, exitFailed, exitUsage, exitNotFound, exitInUse, exitInterrupted)
}

func runDelete(cmd *cobra.Command, a *app, ids []string) error {
	return a.write(cmd, func(h holder) error {
		deleted, err := h.Delete(cmd.Context(), ids...)
		if err != nil {
			return err
		}
		err = a.result(deleted, func(w io.Writer) {
			for _, s := range deleted {
				fmt.Fprintln(w, "deleted", s.ID)
			}
		})
		a.note("gc gives back the space")
		return err
	})
}
