package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/arcboxlabs/arcstore"
	"github.com/arcboxlabs/arcstore/manifest"
)

func newShowCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "show ID",
		Short: "Show a snapshot",
		Long: `Show prints what the catalogue has on a snapshot, its streams, its machine where
that was stored, and of a container its processes, open files and sockets. With
--json it prints the catalogue entry, of a container with what was captured as "checkpoint".`,
		Example: `  arcstore show 7f3a09c1
  arcstore show web-1@latest --json`,
		Args:              takes(1, 1, "one ID"),
		ValidArgsFunction: atMost(1, a.completeSnapshots),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runShow(cmd.Context(), a, args[0])
		},
	}
	a.fromFlag(cmd)
	return exits(cmd, exitFailed, exitUsage, exitNotFound, exitDamage, exitInterrupted)
}

func runShow(ctx context.Context, a *app, id string) error {
	return a.read(ctx, func(m *arcstore.Manager) error {
		s, err := m.Get(ctx, id)
		if err != nil {
			return err
		}
		if a.json && s.TargetType == manifest.VM || s.State == manifest.Creating {
			return a.result(s, func(w io.Writer) { printEntry(w, s) })
		}
		in, err := lookInto(ctx, m, s.ID)
		if err != nil && !arcstore.IsCorrupt(err) {
			return err
		}
		damage := err
		shown := struct {
			*arcstore.Snapshot
			Checkpoint *arcstore.Checkpoint `json:"checkpoint,omitempty"`
		}{s, in.checkpoint}
		err = a.result(shown, func(w io.Writer) {
			printEntry(w, s)
			if damage != nil {
				return
			}
			fmt.Fprintln(w)
			t := newTable("STREAM", ">SIZE", ">DATA")
			for _, stream := range in.streams {
				t.add(stream.Name, size(stream.Size), size(stream.Data))
			}
			t.print(w)
			if in.machine != nil {
				fmt.Fprintln(w)
				printMachine(w, in.machine)
			}
			if in.checkpoint != nil {
				printCheckpoint(w, in.checkpoint)
			}
		})
		if err != nil {
			return err
		}
		return damage
	})
}

// contents is what is in a snapshot.
type contents struct {
	streams    []arcstore.StreamInfo
	machine    *arcstore.Machine    // nil for none
	checkpoint *arcstore.Checkpoint // nil for none
}

func lookInto(ctx context.Context, m *arcstore.Manager, id string) (in contents, err error) {
	r, err := m.OpenSnapshot(ctx, id)
	if err != nil {
		return in, err
	}
	defer r.Close()
	if in.streams, err = r.Streams(ctx); err != nil {
		return in, err
	}
	if in.machine, err = r.Machine(ctx); err != nil {
		return in, err
	}
	in.checkpoint, err = r.Checkpoint(ctx)
	return in, err
}

func printEntry(w io.Writer, s *arcstore.Snapshot) {
	f := facts{}
	f.add("id", "%s", s.ID)
	f.add("target", "%s (%s)", s.TargetID, s.TargetType)
	if s.Name != "" {
		f.add("name", "%s", s.Name)
	}
	if s.Description != "" {
		f.add("description", "%s", s.Description)
	}
	for _, key := range slices.Sorted(maps.Keys(s.Labels)) {
		f.add("label", "%s=%s", key, s.Labels[key])
	}
	if h := s.Host; h != nil {
		f.add("taken on", "%s, %s", printable(orNone(h.CPU)), printable(h.Kernel))
		if h.VMM != "" {
			f.add("by", "%s", printable(strings.TrimSpace(h.VMM+" "+h.VMMVersion)))
		}
	}
	f.add("created", "%s", moment(s.Created))
	f.add("state", "%s", s.State)
	f.add("parent", "%s", orNone(s.Parent))
	f.add("size", "%s", size(s.Size))
	addCost(&f, s)
	f.add("packs", "%s", count(len(s.Packs)))
	f.add("manifest", "%s", s.Manifest)
	f.print(w)
}

// addCost tells what the creation of a snapshot cost.
func addCost(f *facts, s *arcstore.Snapshot) {
	f.add("scanned", "%s", size(s.Cost.BytesScanned))
	f.add("new", "%s (%s)", size(s.Cost.BytesNew), plural(s.Cost.ChunksNew, "chunk", "chunks"))
	f.add("stored", "%s", size(s.Cost.BytesStored))
	if s.Cost.Pause > 0 {
		f.add("paused", "%s", took(s.Cost.Pause))
	}
	f.add("took", "%s", took(s.Cost.Duration))
}

func printMachine(w io.Writer, m *arcstore.Machine) {
	f := facts{}
	f.add("architecture", "%s", orNone(m.Architecture))
	f.add("vCPUs", "%d", len(m.VCPUs))
	var devices []string
	for _, d := range m.Devices {
		devices = append(devices, d.Type+" "+d.Name)
	}
	f.add("devices", "%s", orNone(strings.Join(devices, ", ")))
	f.print(w)
	if len(m.Regions) == 0 {
		return
	}
	fmt.Fprintln(w)
	t := newTable(">GUEST ADDRESS", ">SIZE", ">AT", "ACCESS")
	for _, r := range m.Regions {
		access := "read-write"
		if r.ReadOnly {
			access = "read-only"
		}
		t.add(fmt.Sprintf("%#x", r.GuestAddress), size(r.Size), fmt.Sprintf("%#x", r.Offset), access)
	}
	t.print(w)
}
