package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/arcboxlabs/arcstore"
)

func newRemoteCommand(a *app) *cobra.Command {
	cmd := group(&cobra.Command{
		Use:   "remote",
		Short: "Snapshots in S3 buckets",
		Long: `A remote is a prefix of an S3 bucket that any number of hosts push snapshots to. What
several hosts have alike is there once. The store keeps where it is and how it is reached,
but no secrets: credentials come from the environment (AWS_ACCESS_KEY_ID and the like), a
shared credentials file, or the role of the machine, whichever has some first.`,
		Example: `  arcstore remote add offsite s3://backups/fleet --endpoint https://s3.example.com
  arcstore push --all
  arcstore remote ls offsite`,
	})
	cmd.AddCommand(newRemoteAddCommand(a), newRemoteListCommand(a), newRemoteRemoveCommand(a), newRemoteLsCommand(a), newRemoteShowCommand(a),
		newRemoteVerifyCommand(a), newRemoteDeleteCommand(a), newRemotePruneCommand(a), newRemoteGCCommand(a), newRemoteStatsCommand(a))
	return cmd
}

// remoteFlags defines the flags that say how a bucket is reached.
func remoteFlags(cmd *cobra.Command, c *arcstore.RemoteConfig) {
	f := cmd.Flags()
	f.StringVar(&c.Endpoint, "endpoint", "", "`URL` of the server (default $AWS_ENDPOINT_URL, or Amazon's)")
	f.StringVar(&c.Region, "region", "", "`REGION` of the bucket (default $AWS_REGION, or what the server says)")
	f.StringVar(&c.Credentials, "credentials", "", "credentials `FROM` env, profile:NAME, file:PATH, iam or anonymous")
	must(cmd.RegisterFlagCompletionFunc("endpoint", cobra.NoFileCompletions))
	must(cmd.RegisterFlagCompletionFunc("region", cobra.NoFileCompletions))
	must(cmd.RegisterFlagCompletionFunc("credentials", cobra.FixedCompletions([]cobra.Completion{"env", "profile:", "file:", "iam", "anonymous"}, cobra.ShellCompDirectiveNoFileComp|cobra.ShellCompDirectiveNoSpace)))
}

func newRemoteAddCommand(a *app) *cobra.Command {
	var c arcstore.RemoteConfig
	var noCheck bool
	cmd := &cobra.Command{
		Use:   "add NAME s3://BUCKET/PREFIX",
		Short: "Add a remote",
		Long: `Add gives a prefix of a bucket a name. The bucket must exist; the prefix must be empty,
or hold what was pushed to it, which add looks at unless told not to.`,
		Example: `  arcstore remote add offsite s3://backups/fleet
  arcstore remote add local s3://test --endpoint http://127.0.0.1:9000 --credentials profile:test`,
		Args:              takes(2, 2, "a NAME and an s3:// URL"),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			c.Name, c.URL = args[0], args[1]
			return runRemoteAdd(cmd.Context(), a, c, !noCheck)
		},
	}
	remoteFlags(cmd, &c)
	cmd.Flags().BoolVar(&noCheck, "no-check", false, "do not look whether the bucket is there")
	return exits(cmd, exitFailed, exitUsage, exitInterrupted)
}

func runRemoteAdd(ctx context.Context, a *app, c arcstore.RemoteConfig, check bool) error {
	return a.read(ctx, func(m *arcstore.Manager) error {
		if check {
			if err := m.CheckRemote(ctx, c); err != nil {
				return err
			}
		}
		if err := m.AddRemote(ctx, c); err != nil {
			return err
		}
		return a.result(c, func(w io.Writer) { fmt.Fprintln(w, "added", c.Name) })
	})
}

func newRemoteListCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:               "list",
		Short:             "List the store's remotes",
		Example:           `  arcstore remote list`,
		Args:              takes(0, 0, "no arguments"),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.read(cmd.Context(), func(m *arcstore.Manager) error {
				remotes, err := m.Remotes()
				if err != nil {
					return err
				}
				if remotes == nil {
					remotes = []arcstore.RemoteConfig{} // an array in JSON too
				}
				return a.result(remotes, func(w io.Writer) { printRemotes(w, remotes) })
			})
		},
	}
	return exits(cmd, exitFailed, exitUsage)
}

func printRemotes(w io.Writer, remotes []arcstore.RemoteConfig) {
	if len(remotes) == 0 {
		fmt.Fprintln(w, "no remotes")
		return
	}
	t := newTable("NAME", "URL", "ENDPOINT", "REGION", "CREDENTIALS")
	for _, r := range remotes {
		t.add(r.Name, r.URL, orNone(r.Endpoint), orNone(r.Region), orNone(r.Credentials))
	}
	t.print(w)
}

func newRemoteRemoveCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:               "remove NAME",
		Short:             "Forget a remote",
		Long:              "Remove makes the store forget a remote. What is in the bucket stays as it is.",
		Example:           `  arcstore remote remove offsite`,
		Args:              takes(1, 1, "one NAME"),
		ValidArgsFunction: atMost(1, a.completeRemotes),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.read(cmd.Context(), func(m *arcstore.Manager) error {
				if err := m.RemoveRemote(cmd.Context(), args[0]); err != nil {
					return err
				}
				a.note("removed %s; the bucket stays as it is", args[0])
				return nil
			})
		},
	}
	return exits(cmd, exitFailed, exitUsage)
}

// completeRemotes completes the names of remotes.
func (a *app) completeRemotes(cmd *cobra.Command, _ []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
	var found []cobra.Completion
	a.completing(cmd, func(_ context.Context, m *arcstore.Manager) error {
		remotes, err := m.Remotes()
		for _, r := range remotes {
			found = append(found, cobra.CompletionWithDesc(r.Name, r.URL))
		}
		return err
	})
	return keepPrefix(found, prefix), cobra.ShellCompDirectiveNoFileComp
}

// fromFlag lets a command that reads a store read a remote instead.
func (a *app) fromFlag(cmd *cobra.Command) {
	cmd.Flags().StringVar(&a.from, "from", "", "read the remote `NAME`, or one at an s3:// URL, instead of the store")
	must(cmd.RegisterFlagCompletionFunc("from", a.completeRemotes))
}

// patience is for how long a request to a bucket is tried; 0 is what the library takes. Tests have less of it.
var patience time.Duration

// withRemote opens a remote: the store's by its name, or one by its URL, for which no store is needed.
func (a *app) withRemote(ctx context.Context, name string, opts *arcstore.RemoteOptions, use func(*arcstore.Remote) error) error {
	if opts == nil {
		opts = &arcstore.RemoteOptions{}
	}
	opts.Secret, opts.Warn, opts.Patience = a.secret(ctx), a.warn, patience
	if strings.Contains(name, "://") {
		r, err := arcstore.OpenRemoteAt(ctx, arcstore.RemoteConfig{URL: name}, opts)
		if err != nil {
			return err
		}
		defer r.Close()
		return use(r)
	}
	dir, err := a.directory()
	if err != nil {
		return err
	}
	m, err := arcstore.Open(ctx, dir, &arcstore.Options{ReadOnly: true, Secret: opts.Secret})
	if err != nil {
		return err
	}
	defer m.Close()
	return a.openRemote(ctx, m, name, opts, use)
}

// openRemote opens a remote of a store; "" is the only one.
func (a *app) openRemote(ctx context.Context, m *arcstore.Manager, name string, opts *arcstore.RemoteOptions, use func(*arcstore.Remote) error) error {
	if opts == nil {
		opts = &arcstore.RemoteOptions{}
	}
	opts.LockTimeout, opts.Holder, opts.Secret, opts.Warn, opts.Patience = a.lockTimeout, "arcstore", a.secret(ctx), a.warn, patience
	r, err := m.OpenRemote(ctx, name, opts)
	if err != nil {
		return err
	}
	err = use(r)
	if cerr := r.Close(); err == nil {
		err = cerr
	}
	return err
}
