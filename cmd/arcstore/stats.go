package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"

	"github.com/arcboxlabs/arcstore"
)

// worstShown is how many of the most scattered snapshots stats shows.
const worstShown = 5

func newStatsCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "stats",
		Short: "Show what the store holds and what that takes",
		Long: `Stats sums up the store: what its snapshots restore to, what that takes on disk,
and how scattered they lie, in frames (the pieces that are compressed together) read for each
MiB restored. Sixteen is ideal; gc lays together what has grown worse. With --json
it says so of every snapshot.`,
		Example: `  arcstore stats
  arcstore stats --json | jq .pack_bytes`,
		Args:              takes(0, 0, "no arguments"),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runStats(cmd.Context(), a)
		},
	}
	return exits(cmd, exitFailed, exitUsage, exitDamage, exitInterrupted)
}

func runStats(ctx context.Context, a *app) error {
	return a.read(ctx, func(m *arcstore.Manager) error {
		s, err := m.Stats(ctx)
		if err != nil {
			return err
		}
		if s.Fragmentation == nil {
			s.Fragmentation = []arcstore.Fragmentation{} // an array in JSON too
		}
		return a.result(s, func(w io.Writer) { printStats(w, s) })
	})
}

func printStats(w io.Writer, s *arcstore.Stats) {
	disk := s.PackBytes + s.ManifestBytes + s.IndexBytes + s.CatalogueBytes
	f := facts{}
	f.add("store", "%s (format %d)", s.StoreID, s.FormatVersion)
	f.add("chunk size", "%s", size(int64(s.ChunkSize)))
	f.add("compression", "%s", s.Compression)
	f.add("snapshots", "%s of %s", count(s.Snapshots), plural(s.Targets, "target", "targets"))
	f.add("they restore to", "%s, %s of it not zeros", size(s.Logical), size(s.Data))
	f.add("chunks stored", "%s, %s uncompressed", count(s.Chunks), size(s.ChunkBytes))
	f.add("on disk", "%s%s", size(disk), ratio(s.Data, disk))
	f.add("  packs", "%s in %s", size(s.PackBytes), plural(s.Packs, "file", "files"))
	f.add("  manifests", "%s", size(s.ManifestBytes))
	f.add("  index", "%s", size(s.IndexBytes))
	f.add("  catalogue", "%s", size(s.CatalogueBytes))
	f.print(w)
	if len(s.Fragmentation) == 0 {
		return
	}
	worst := slices.Clone(s.Fragmentation)
	slices.SortStableFunc(worst, func(a, b arcstore.Fragmentation) int { return cmp.Compare(b.FramesPerMiB, a.FramesPerMiB) })
	fmt.Fprintf(w, "\nmost scattered snapshots\n")
	t := newTable("ID", "TARGET", ">PACKS", ">FRAMES", ">FRAMES/MIB")
	for _, f := range worst[:min(worstShown, len(worst))] {
		t.add(f.Snapshot, f.TargetID, count(f.Packs), count(f.Frames), fmt.Sprintf("%.1f", f.FramesPerMiB))
	}
	t.print(w)
}

// ratio says how much smaller stored is than data, where that says something.
func ratio(data, stored int64) string {
	if data <= 0 || stored <= 0 {
		return ""
	}
	return fmt.Sprintf(", 1/%.1f of what is not zeros", float64(data)/float64(stored))
}
