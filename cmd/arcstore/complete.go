package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/arcboxlabs/arcstore"
	"github.com/arcboxlabs/arcstore/manifest"
)

// completionPatience is how long a shell may hang on a slow store.
const completionPatience = 2 * time.Second

// atMost stops completion after n arguments; n < 0 never.
func atMost(n int, complete cobra.CompletionFunc) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if n >= 0 && len(args) >= n {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return complete(cmd, args, prefix)
	}
}

// completeSnapshots completes IDs, and TARGET@latest.
func (a *app) completeSnapshots(cmd *cobra.Command, args []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
	var found []cobra.Completion
	latest := make(map[string]bool)
	for _, s := range slices.Backward(a.known(cmd)) { // newest first
		if !slices.Contains(args, s.ID) {
			text := s.TargetID + ", " + moment(s.Created)
			if s.Name != "" {
				text += ", " + s.Name
			}
			found = append(found, cobra.CompletionWithDesc(s.ID, printable(text)))
		}
		if s.State == manifest.Ready && !latest[s.TargetID] {
			latest[s.TargetID] = true
			found = append(found, cobra.CompletionWithDesc(s.TargetID+"@latest", "newest of "+s.TargetID))
		}
	}
	return keepPrefix(found, prefix), cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveKeepOrder
}

// completeTargets completes the names of targets that have snapshots.
func (a *app) completeTargets(cmd *cobra.Command, _ []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
	snapshots := make(map[string]int)
	var found []cobra.Completion
	for _, s := range a.known(cmd) {
		snapshots[s.TargetID]++
	}
	for target, n := range snapshots {
		found = append(found, cobra.CompletionWithDesc(target, plural(n, "snapshot", "snapshots")))
	}
	slices.Sort(found)
	return keepPrefix(found, prefix), cobra.ShellCompDirectiveNoFileComp
}

// completeParents completes what --parent takes.
func (a *app) completeParents(cmd *cobra.Command, _ []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
	ids, directive := a.completeSnapshots(cmd, nil, prefix)
	words := keepPrefix([]cobra.Completion{
		cobra.CompletionWithDesc(arcstore.ParentLatest, "the target's newest snapshot"),
		cobra.CompletionWithDesc(arcstore.ParentNone, "no parent"),
	}, prefix)
	return append(words, ids...), directive
}

// completeStreams completes the names of the streams of the snapshot that the arguments name.
func (a *app) completeStreams(cmd *cobra.Command, args []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
	var found []cobra.Completion
	if len(args) > 0 {
		a.completing(cmd, func(ctx context.Context, m *arcstore.Manager) error {
			r, err := m.OpenSnapshot(ctx, args[0])
			if err != nil {
				return err
			}
			defer r.Close()
			streams, err := r.Streams(ctx)
			for _, s := range streams {
				found = append(found, cobra.CompletionWithDesc(s.Name, size(s.Size)))
			}
			return err
		})
	}
	return keepPrefix(found, prefix), cobra.ShellCompDirectiveNoFileComp
}

// known lists the store's snapshots, or nothing where that fails: a shell has no place for errors.
func (a *app) known(cmd *cobra.Command) (snapshots []*arcstore.Snapshot) {
	a.completing(cmd, func(ctx context.Context, m *arcstore.Manager) error {
		var err error
		snapshots, err = m.List(ctx, "")
		return err
	})
	return snapshots
}

func (a *app) completing(cmd *cobra.Command, use func(context.Context, *arcstore.Manager) error) {
	ctx, cancel := context.WithTimeout(cmd.Context(), completionPatience)
	defer cancel()
	a.mute = true
	if err := a.read(ctx, func(m *arcstore.Manager) error { return use(ctx, m) }); err != nil {
		cobra.CompDebugln(fmt.Sprintf("arcstore: %s", plain(err)), false)
	}
}

func keepPrefix(all []cobra.Completion, prefix string) []cobra.Completion {
	return slices.DeleteFunc(all, func(c cobra.Completion) bool { return !strings.HasPrefix(c, prefix) })
}
