package main

import (
	"io"
	"slices"

	"github.com/spf13/cobra"

	"github.com/arcboxlabs/arcstore"
	"github.com/arcboxlabs/arcstore/manifest"
)

func newPushCommand(a *app) *cobra.Command {
	var to string
	var all bool
	var limit sizeFlag
	cmd := &cobra.Command{
		Use:   "push ID|TARGET... | --all [--to NAME]",
		Short: "Copy snapshots to a remote",
		Long: `Push makes sure that snapshots are in a remote: those named, all of a TARGET, or all that there
are. Only what the bucket lacks is sent, chunk by chunk, whichever host brought the rest.
What is reported pushed is there until somebody deletes it. A push that was interrupted
does what is left when it runs again. It works beside a process that uses the store.`,
		Example: `  arcstore push --all
  arcstore push web-1 --to offsite --limit-upload 10MiB
  arcstore push 7f3a09c1`,
		Args:              takes(0, -1, "IDs or TARGETs"),
		ValidArgsFunction: atMost(-1, a.completeSnapshots),
		RunE: func(cmd *cobra.Command, args []string) error {
			if all == (len(args) > 0) {
				return usagef("push takes IDs or TARGETs, or --all")
			}
			return runPush(cmd, a, args, to, int64(limit))
		},
	}
	f := cmd.Flags()
	f.StringVar(&to, "to", "", "the remote `NAME` (default: the only one)")
	f.BoolVar(&all, "all", false, "push every snapshot that is ready")
	f.Var(&limit, "limit-upload", "bytes a second to send at most, such as 10MiB")
	must(cmd.RegisterFlagCompletionFunc("to", a.completeRemotes))
	must(cmd.RegisterFlagCompletionFunc("limit-upload", cobra.NoFileCompletions))
	return exits(cmd, exitFailed, exitUsage, exitNotFound, exitDamage, exitInUse, exitInterrupted)
}

func runPush(cmd *cobra.Command, a *app, args []string, to string, limit int64) error {
	ctx := cmd.Context()
	return a.read(ctx, func(m *arcstore.Manager) error {
		var refs []string
		all, err := m.List(ctx, "")
		if err != nil {
			return err
		}
		damaged := 0
		for _, s := range all {
			if s.State == manifest.Invalid && (len(args) == 0 || slices.Contains(args, s.TargetID)) {
				damaged++
			}
		}
		for _, arg := range args {
			snapshots, err := m.List(ctx, arg)
			if err != nil {
				return err
			}
			ready := slices.DeleteFunc(slices.Clone(snapshots), func(s *arcstore.Snapshot) bool { return s.State != manifest.Ready })
			switch {
			case len(snapshots) == 0, arg == "": // the latter is no name for all of them
				refs = append(refs, arg)
				continue
			case len(ready) == 0:
				ready = snapshots // which the push refuses, and says why; no refs at all would be every snapshot there is
			}
			for _, s := range ready {
				refs = append(refs, s.ID)
			}
		}
		return a.openRemote(ctx, m, to, &arcstore.RemoteOptions{UploadLimit: limit}, func(r *arcstore.Remote) error {
			p := a.progress()
			defer p.close()
			report, err := r.Push(ctx, m, refs, &arcstore.PushOptions{Progress: p.report()})
			p.close()
			if err != nil {
				return err
			}
			if damaged > 0 {
				a.warn(plural(damaged, "snapshot is", "snapshots are") + " damaged, and not pushed: arcstore list shows which")
			}
			return a.result(report, func(w io.Writer) {
				f := facts{}
				f.add("pushed", "%s", count(len(report.Pushed)))
				f.add("there before", "%s", count(len(report.Present)))
				f.add("sent", "%s in %s", size(report.Bytes), plural(report.Packs, "pack", "packs"))
				if report.Resumed > 0 {
					f.add("sent before", "%s", plural(report.Resumed, "object", "objects"))
				}
				f.add("took", "%s", took(report.Duration))
				f.print(w)
			})
		})
	})
}

func newPullCommand(a *app) *cobra.Command {
	var from string
	var limit sizeFlag
	cmd := &cobra.Command{
		Use:   "pull ID... [--from NAME]",
		Short: "Copy snapshots from a remote into the store",
		Long: `Pull copies snapshots from a remote, with their IDs. Only chunks are fetched that the store
lacks, and every byte is verified. To restore a snapshot once, restore --from needs no copy.`,
		Example: `  arcstore pull web-1@latest
  arcstore pull 7f3a09c1 91bb04de --from offsite`,
		Args:              takes(1, -1, "one ID or more"),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			return runPull(cmd, a, args, from, int64(limit))
		},
	}
	f := cmd.Flags()
	f.StringVar(&from, "from", "", "the remote `NAME` (default: the only one)")
	f.Var(&limit, "limit-download", "bytes a second to fetch at most, such as 10MiB")
	must(cmd.RegisterFlagCompletionFunc("from", a.completeRemotes))
	must(cmd.RegisterFlagCompletionFunc("limit-download", cobra.NoFileCompletions))
	return exits(cmd, exitFailed, exitUsage, exitNotFound, exitDamage, exitInUse, exitInterrupted)
}

func runPull(cmd *cobra.Command, a *app, ids []string, from string, limit int64) error {
	ctx := cmd.Context()
	return a.write(cmd, func(h holder) error {
		p := a.progress()
		defer p.close()
		report, err := h.Pull(ctx, arcstore.TransferRequest{Remote: from, Snapshots: ids, Limit: limit}, a.events(p))
		p.close()
		if err != nil {
			return err
		}
		return a.result(report, func(w io.Writer) {
			f := facts{}
			f.add("pulled", "%s", count(len(report.Pulled)))
			f.add("there before", "%s", count(len(report.Present)))
			f.add("fetched", "%s", size(report.BytesRead))
			f.add("new", "%s (%s)", size(report.BytesNew), plural(report.ChunksNew, "chunk", "chunks"))
			f.add("took", "%s", took(report.Duration))
			f.print(w)
		})
	})
}
