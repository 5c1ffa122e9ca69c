package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/arcboxlabs/arcstore"
)

func newListCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "list [TARGET]",
		Aliases: []string{"ls"},
		Short:   "List snapshots",
		Long: `List shows the snapshots of a target, or of all, oldest first: SIZE is what they
restore to, NEW what their creation found new, STORED what that took. STATE is ready, creating,
or, where something is damaged that the snapshot needs, invalid.`,
		Example: `  arcstore list
  arcstore list web-1
  arcstore list --json | jq -r '.[].id'`,
		Args:              takes(0, 1, "a TARGET or nothing"),
		ValidArgsFunction: atMost(1, a.completeTargets),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runList(cmd, a, append(args, "")[0])
		},
	}
	a.fromFlag(cmd)
	return exits(cmd, exitFailed, exitUsage, exitInterrupted)
}

func runList(cmd *cobra.Command, a *app, target string) error {
	return a.read(cmd.Context(), func(m *arcstore.Manager) error { return listSnapshots(cmd.Context(), a, m, target) })
}

func listSnapshots(ctx context.Context, a *app, m *arcstore.Manager, target string) error {
	snapshots, err := m.List(ctx, target)
	if err != nil {
		return err
	}
	if snapshots == nil {
		snapshots = []*arcstore.Snapshot{} // an array in JSON too
	}
	if err := a.result(snapshots, func(w io.Writer) { printSnapshots(w, snapshots) }); err != nil {
		return err
	}
	if a.from == "" {
		a.failingSchedules()
	}
	return nil
}

func printSnapshots(w io.Writer, snapshots []*arcstore.Snapshot) {
	if len(snapshots) == 0 {
		fmt.Fprintln(w, "no snapshots")
		return
	}
	short := shortIDs(snapshots)
	t := newTable("ID", "TARGET", "CREATED", ">SIZE", ">NEW", ">STORED", "PARENT", "STATE", "NAME")
	for _, s := range snapshots {
		if s.TargetID == "" { // the entry cannot be read
			t.add(short(s.ID), "-", "-", "-", "-", "-", "-", fmt.Sprint(s.State), "")
			continue
		}
		t.add(short(s.ID), s.TargetID, moment(s.Created), size(s.Size), size(s.Cost.BytesNew), size(s.Cost.BytesStored),
			orNone(short(s.Parent)), fmt.Sprint(s.State), s.Name)
	}
	t.print(w)
}

// orNone writes what may be missing.
func orNone(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
