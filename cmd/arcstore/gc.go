package main

import (
	"context"
	"io"

	"github.com/spf13/cobra"

	"github.com/arcboxlabs/arcstore"
)

func newGCCommand(a *app) *cobra.Command {
	var dryRun bool
	cmd := &cobra.Command{
		Use:   "gc",
		Short: "Give back the space that no snapshot needs",
		Long: `Gc deletes what no snapshot needs, rewrites packs that are mostly dead, merges small
ones, and lays together the snapshots that have become scattered. It removes what
interrupted operations left.

Of damage it drops what nobody needs anymore. A pack stays as it is while it holds what
is left of a chunk that a snapshot needs; a damaged snapshot loses nothing more.`,
		Example: `  arcstore gc --dry-run
  arcstore gc`,
		Args:              takes(0, 0, "no arguments"),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runGC(cmd, a, dryRun)
		},
	}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only say what would be freed")
	return exits(cmd, exitFailed, exitUsage, exitDamage, exitInUse, exitInterrupted)
}

func runGC(cmd *cobra.Command, a *app, dryRun bool) error {
	collect := func(ctx context.Context, gc func(context.Context, *arcstore.GCOptions) (*arcstore.GCReport, error)) error {
		p := a.progress()
		defer p.close()
		report, err := gc(ctx, &arcstore.GCOptions{DryRun: dryRun, Progress: p.report()})
		p.close()
		if err != nil {
			return err
		}
		return a.result(report, func(w io.Writer) { printGC(w, report) })
	}
	if dryRun {
		return a.read(cmd.Context(), func(m *arcstore.Manager) error { return collect(cmd.Context(), m.GC) })
	}
	return a.write(cmd, func(h holder) error { return collect(cmd.Context(), h.GC) })
}

func printGC(w io.Writer, r *arcstore.GCReport) {
	f := facts{}
	f.add("snapshots", "%s", count(r.Snapshots))
	if r.SnapshotsDamaged > 0 {
		f.add("  damaged", "%s; verify --data tells more", count(r.SnapshotsDamaged))
	}
	f.add("live chunks", "%s", count(r.ChunksLive))
	freed, grew := "freed", "grew by" // what lies scattered may need more room when it is laid together
	if r.DryRun {
		freed, grew = "would free", "would grow by"
	}
	if r.BytesFreed >= 0 {
		f.add(freed, "%s", size(r.BytesFreed))
	} else {
		f.add(grew, "%s", size(-r.BytesFreed))
	}
	f.add("packs", "%s deleted, %s written anew (%s moved, %s)", count(r.PacksDeleted), count(r.PacksWritten),
		plural(r.ChunksMoved, "chunk", "chunks"), size(r.BytesRewritten))
	if r.NoRoom {
		f.add("  left", "what there was no room to write anew; run gc again when there is more")
	}
	f.add("manifests", "%s deleted", count(r.ManifestsDeleted))
	f.add("leftovers", "%s deleted", count(r.LeftoversDeleted))
	f.add("most scattered", "%.1f frames read for each MiB", r.FramesPerMiBWorst)
	f.add("took", "%s", took(r.Duration))
	f.print(w)
}
