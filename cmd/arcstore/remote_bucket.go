package main

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/arcboxlabs/arcstore"
)

// reading returns what runs a command on a remote, the first argument, instead of the store.
func (a *app) reading(run func(cmd *cobra.Command, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		a.from = args[0]
		return run(cmd, args[1:])
	}
}

func newRemoteLsCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:               "ls NAME [TARGET]",
		Short:             "List the snapshots in a remote",
		Long:              "Ls shows the snapshots that hosts have pushed to a remote. NAME may be an s3:// URL.",
		Example:           `  arcstore remote ls offsite web-1`,
		Args:              takes(1, 2, "a NAME, and perhaps a TARGET"),
		ValidArgsFunction: atMost(1, a.completeRemotes),
		RunE: a.reading(func(cmd *cobra.Command, args []string) error {
			return a.withRemote(cmd.Context(), a.from, nil, func(r *arcstore.Remote) error {
				if r.Snapshots == nil {
					return a.result([]*arcstore.Snapshot{}, func(w io.Writer) { printSnapshots(w, nil) })
				}
				return listSnapshots(cmd.Context(), a, r.Snapshots, append(args, "")[0])
			})
		}),
	}
	return exits(cmd, exitFailed, exitUsage, exitInterrupted)
}

func newRemoteShowCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:               "show NAME ID",
		Short:             "Show a snapshot in a remote",
		Example:           `  arcstore remote show offsite web-1@latest`,
		Args:              takes(2, 2, "a NAME and an ID"),
		ValidArgsFunction: atMost(1, a.completeRemotes),
		RunE:              a.reading(func(cmd *cobra.Command, args []string) error { return runShow(cmd.Context(), a, args[0]) }),
	}
	return exits(cmd, exitFailed, exitUsage, exitNotFound, exitDamage, exitInterrupted)
}

func newRemoteVerifyCommand(a *app) *cobra.Command {
	var data percentFlag
	cmd := &cobra.Command{
		Use:   "verify NAME [ID...]",
		Short: "Check that the snapshots in a remote are whole",
		Long: `Verify checks that everything is in the bucket that its snapshots need. With --data it
fetches and verifies every byte; without, the tables alone. A request that fails is an
error, and never taken for damage.`,
		Example: `  arcstore remote verify offsite
  arcstore remote verify offsite web-1@latest --data`,
		Args:              takes(1, -1, "a NAME, and perhaps IDs"),
		ValidArgsFunction: atMost(1, a.completeRemotes),
		RunE:              a.reading(func(cmd *cobra.Command, args []string) error { return runVerify(cmd.Context(), a, data, args) }),
	}
	cmd.Flags().Var(&data, "data", "read and verify the data: all of it, or `PERCENT` of it")
	cmd.Flags().Lookup("data").NoOptDefVal = "100%"
	return exits(cmd, exitFailed, exitUsage, exitNotFound, exitDamage, exitInterrupted)
}

func newRemoteDeleteCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:               "delete NAME ID...",
		Short:             "Delete snapshots from a remote",
		Long:              "Delete deletes snapshots from the bucket; all must exist, or none is deleted. The space comes back with remote gc.",
		Example:           `  arcstore remote delete offsite 7f3a09c1`,
		Args:              takes(2, -1, "a NAME, and one ID or more"),
		ValidArgsFunction: atMost(1, a.completeRemotes),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withRemote(cmd.Context(), args[0], nil, func(r *arcstore.Remote) error {
				deleted, err := r.Delete(cmd.Context(), args[1:]...)
				if err != nil {
					return err
				}
				a.note("remote gc gives back the space")
				return a.result(deleted, func(w io.Writer) {
					for _, s := range deleted {
						fmt.Fprintln(w, "deleted", s.ID)
					}
				})
			})
		},
	}
	return exits(cmd, exitFailed, exitUsage, exitNotFound, exitInUse, exitInterrupted)
}

func newRemotePruneCommand(a *app) *cobra.Command {
	var opt pruneOptions
	cmd := &cobra.Command{
		Use:   "prune NAME [TARGET] --keep-...",
		Short: "Delete the snapshots in a remote that a retention does not keep",
		Long:  "Prune does in a bucket what arcstore prune does in a store. The space comes back with remote gc.",
		Example: `  arcstore remote prune offsite --keep-daily 30 --keep-monthly 12 --dry-run
  arcstore remote gc offsite`,
		Args:              takes(1, 2, "a NAME, and perhaps a TARGET"),
		ValidArgsFunction: atMost(1, a.completeRemotes),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := opt.check(cmd, args[1:]); err != nil {
				return err
			}
			return a.withRemote(cmd.Context(), args[0], nil, func(r *arcstore.Remote) error {
				if r.Snapshots == nil {
					return errNothingPushed
				}
				return prune(cmd.Context(), a, opt, append(args[1:], "")[0], "remote gc", r.Snapshots.List, r.Prune)
			})
		},
	}
	opt.flags(cmd)
	return exits(cmd, exitFailed, exitUsage, exitNotFound, exitInUse, exitInterrupted)
}

func newRemoteGCCommand(a *app) *cobra.Command {
	var grace time.Duration
	var dryRun bool
	cmd := &cobra.Command{
		Use:   "gc NAME",
		Short: "Give back the space in a remote that no snapshot needs",
		Long: `Gc deletes from a bucket what no snapshot there needs, in two steps: it condemns it, and a
gc that runs at least a grace period later deletes it, if still no snapshot needs it. Any
number of hosts may push, prune and collect meanwhile. The grace period is for those who
are reading what is deleted, and for pushes that take long; no snapshot depends on it.

It notes what snapshots need and the bucket has lost, because somebody deleted it by other means:
the next push that needs it sends it again.`,
		Example: `  arcstore remote gc offsite
  arcstore remote gc offsite --grace 72h`,
		Args:              takes(1, 1, "one NAME"),
		ValidArgsFunction: atMost(1, a.completeRemotes),
		RunE: func(cmd *cobra.Command, args []string) error {
			if grace < 0 {
				return usagef("--grace %s is less than no time", grace)
			}
			opts := &arcstore.RemoteGCOptions{DryRun: dryRun, Grace: grace}
			if grace == 0 {
				opts.Grace = -1
			}
			return a.withRemote(cmd.Context(), args[0], nil, func(r *arcstore.Remote) error {
				report, err := r.GC(cmd.Context(), opts)
				if err != nil {
					return err
				}
				return a.result(report, func(w io.Writer) { printRemoteGC(w, report) })
			})
		},
	}
	cmd.Flags().DurationVar(&grace, "grace", 24*time.Hour, "how long what is condemned stays")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only say what would be done")
	must(cmd.RegisterFlagCompletionFunc("grace", cobra.NoFileCompletions))
	return exits(cmd, exitFailed, exitUsage, exitDamage, exitInUse, exitInterrupted)
}

func printRemoteGC(w io.Writer, r *arcstore.RemoteGCReport) {
	would := ""
	if r.DryRun {
		would = "would be "
	}
	f := facts{}
	f.add("snapshots", "%s", count(r.Snapshots))
	f.add("objects", "%s, %s", count(r.Objects), size(r.Bytes))
	f.add(would+"deleted", "%s, %s", count(r.ObjectsDeleted), size(r.BytesDeleted))
	f.add(would+"condemned", "%s, %s", count(r.ObjectsCondemned), size(r.BytesCondemned))
	if r.ObjectsRetained > 0 {
		f.add("retained", "%s, %s, that the bucket's object lock keeps for now", count(r.ObjectsRetained), size(r.BytesRetained))
	}
	if r.ObjectsLost > 0 {
		f.add("lost", "%s that snapshots need; push, from a host that has them, sends them again", count(r.ObjectsLost))
	}
	if r.ObjectsKept > 0 {
		f.add("kept", "%s that a snapshot came to need after they were condemned", count(r.ObjectsKept))
	}
	f.print(w)
}

func newRemoteStatsCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:               "stats NAME",
		Short:             "Show what a remote holds",
		Example:           `  arcstore remote stats offsite`,
		Args:              takes(1, 1, "one NAME"),
		ValidArgsFunction: atMost(1, a.completeRemotes),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withRemote(cmd.Context(), args[0], nil, func(r *arcstore.Remote) error {
				s, err := r.Stats(cmd.Context())
				if err != nil {
					return err
				}
				return a.result(s, func(w io.Writer) {
					f := facts{}
					f.add("snapshots", "%s of %s", count(s.Snapshots), plural(s.Targets, "target", "targets"))
					f.add("they restore to", "%s", size(s.Logical))
					f.add("objects", "%s, %s", count(s.Objects), size(s.Bytes))
					f.add("not needed", "%s", size(s.Unneeded))
					f.print(w)
				})
			})
		},
	}
	return exits(cmd, exitFailed, exitUsage, exitDamage, exitInterrupted)
}
