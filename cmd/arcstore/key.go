package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/arcboxlabs/arcstore"
)

func newKeyCommand(a *app) *cobra.Command {
	cmd := group(&cobra.Command{
		Use:   "key",
		Short: "Keys of an encrypted store",
		Long: `An encrypted store has one key for its data, and any number of key files and passphrases
that each open it. A bucket has a list of its own, which begins as that of the store that
was first pushed to it: --remote names one.

Removing a key file or a passphrase does not change the key of the data: whoever opened the
store with it may have kept that. If that is a worry, make a new store and push it elsewhere.`,
		Example: `  arcstore key list
  arcstore key add --new-key-file /root/second.key --label "the other admin"
  arcstore key remove 5e1c --remote offsite`,
	})
	cmd.AddCommand(newKeyListCommand(a), newKeyAddCommand(a), newKeyRemoveCommand(a))
	return cmd
}

// withKeys opens the list of keys of the store, or of a remote.
func (a *app) withKeys(cmd *cobra.Command, remote string, write bool, use func(context.Context, arcstore.Keys) error) error {
	ctx := cmd.Context()
	if remote != "" {
		return a.withRemote(ctx, remote, nil, func(r *arcstore.Remote) error {
			if r.Snapshots == nil {
				return errNothingPushed
			}
			return use(ctx, r.Keys())
		})
	}
	if write {
		return a.write(cmd, func(h holder) error { return use(ctx, h.Keys()) })
	}
	return a.read(ctx, func(m *arcstore.Manager) error { return use(ctx, m.Keys()) })
}

// remoteFlag lets a command that is about a store be about a remote.
func (a *app) remoteFlag(cmd *cobra.Command, name *string) {
	cmd.Flags().StringVar(name, "remote", "", "those of the remote `NAME`, or of one at an s3:// URL, instead of the store's")
	must(cmd.RegisterFlagCompletionFunc("remote", a.completeRemotes))
}

func newKeyListCommand(a *app) *cobra.Command {
	var remote string
	cmd := &cobra.Command{
		Use:               "list",
		Short:             "List what opens the store",
		Example:           `  arcstore key list --remote offsite`,
		Args:              takes(0, 0, "no arguments"),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withKeys(cmd, remote, false, func(ctx context.Context, keys arcstore.Keys) error {
				slots, err := keys.List(ctx)
				if err != nil {
					return err
				}
				return a.result(slots, func(w io.Writer) {
					t := newTable("ID", "KIND", "CREATED", "LABEL")
					for _, s := range slots {
						t.add(s.ID, s.Kind, moment(s.Created), orNone(printable(s.Label)))
					}
					t.print(w)
				})
			})
		},
	}
	a.remoteFlag(cmd, &remote)
	return exits(cmd, exitFailed, exitUsage)
}

func newKeyAddCommand(a *app) *cobra.Command {
	var remote, keyFile, label string
	cmd := &cobra.Command{
		Use:   "add",
		Short: "Let another key file or passphrase open the store",
		Long: `Add lets another secret open the store, besides those that do: a key file, which is made
if it is not there, or a passphrase, from ` + newPassphraseVariable + ` or asked for.`,
		Example: `  arcstore key add --new-key-file /root/second.key
  arcstore key add --label "in the safe"`,
		Args:              takes(0, 0, "no arguments"),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withKeys(cmd, remote, true, func(ctx context.Context, keys arcstore.Keys) error {
				if _, err := keys.List(ctx); err != nil {
					return err // before anybody thinks up a passphrase
				}
				secret, err := a.newSecret(ctx, keyFile, newPassphraseVariable)
				if err != nil {
					return err
				}
				slot, err := keys.Add(ctx, secret, label)
				if err != nil {
					return err
				}
				return a.result(slot, func(w io.Writer) { fmt.Fprintln(w, "added", slot.ID) })
			})
		},
	}
	a.remoteFlag(cmd, &remote)
	cmd.Flags().StringVar(&keyFile, "new-key-file", "", "the key `FILE` to add")
	cmd.Flags().StringVar(&label, "label", "", "a `TEXT` that key list shows")
	must(cmd.RegisterFlagCompletionFunc("label", cobra.NoFileCompletions))
	return exits(cmd, exitFailed, exitUsage, exitInUse, exitInterrupted)
}

func newKeyRemoveCommand(a *app) *cobra.Command {
	var remote string
	cmd := &cobra.Command{
		Use:               "remove ID",
		Short:             "Let a key file or passphrase open the store no more",
		Example:           `  arcstore key remove 5e1c`,
		Args:              takes(1, 1, "one ID"),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withKeys(cmd, remote, true, func(ctx context.Context, keys arcstore.Keys) error {
				slot, err := keys.Remove(ctx, args[0])
				if err != nil {
					return err
				}
				return a.result(slot, func(w io.Writer) { fmt.Fprintln(w, "removed", slot.ID) })
			})
		},
	}
	a.remoteFlag(cmd, &remote)
	return exits(cmd, exitFailed, exitUsage, exitInUse)
}
