package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/arcboxlabs/arcstore"
)

func newServeCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Hold the store and answer for it",
		Long: `Serve holds the store until it is told to end, and answers at the socket control.sock in it: all other
commands find it there, and work as without it. Only processes of the same user, and of root, are let in.

On SIGTERM it ends what runs in good order: what is not complete then was never there.`,
		Example:           "  arcstore serve",
		Args:              takes(0, 0, "no arguments"),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runServe(cmd, a)
		},
	}
	return exits(cmd, exitFailed, exitUsage, exitDamage, exitInUse)
}

func runServe(cmd *cobra.Command, a *app) error {
	ctx := cmd.Context()
	opts := &arcstore.Options{Holder: cmd.CommandPath(), Guard: guardGuest}
	err := a.open(ctx, opts, func(m *arcstore.Manager) error {
		l, err := m.Listen()
		if err != nil {
			return err
		}
		a.note("answers for %s", a.store)
		return m.Serve(ctx, l, &arcstore.ServeOptions{Remote: arcstore.RemoteOptions{Holder: opts.Holder, Secret: a.secret(context.WithoutCancel(ctx)), Patience: patience}})
	})
	var elsewhere *heldElsewhere
	if errors.As(err, &elsewhere) {
		elsewhere.client.Close()
	}
	return err
}
