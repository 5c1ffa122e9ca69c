package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/arcboxlabs/arcstore/cmd/client"
	"github.com/arcboxlabs/arcstore/cmd/schedule"
)

func newScheduleCommand(a *app) *cobra.Command {
	cmd := group(&cobra.Command{
		Use:   "schedule",
		Short: "Schedules that arcstore serve runs",
		Long: `Schedules are what arcstore serve --config FILE does by itself. These commands ask the process that does.
check is for monitoring: it fails where a schedule does.`,
		Example: `  arcstore schedule list
  arcstore schedule run web-1
  arcstore schedule check`,
	})
	cmd.AddCommand(newScheduleListCommand(a), newScheduleHistoryCommand(a), newScheduleRunCommand(a),
		newScheduleSwitchCommand(a, "pause", "Keep a schedule from running by itself", "paused"),
		newScheduleSwitchCommand(a, "resume", "Let a schedule run by itself again; what was missed is not caught up with", "resumed"),
		newScheduleCheckCommand(a))
	return cmd
}

// withServer asks the process that serves the store.
func (a *app) withServer(ctx context.Context, use func(*client.Client) error) error {
	dir, err := a.directory()
	if err != nil {
		return err
	}
	c, err := client.Dial(ctx, dir)
	if errors.Is(err, client.ErrNobody) {
		return hinted{fmt.Errorf("nobody serves the store %s", dir), "arcstore serve --config FILE does"}
	}
	if err != nil {
		return err
	}
	defer c.Close()
	return use(c)
}

func (a *app) completeSchedules(cmd *cobra.Command, _ []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
	var found []cobra.Completion
	if c, err := client.Dial(cmd.Context(), a.store); err == nil {
		defer c.Close()
		var list []schedule.Status
		if c.Call(cmd.Context(), "GET", "/v1/schedules", nil, &list, nil) == nil {
			for _, s := range list {
				found = append(found, cobra.CompletionWithDesc(s.Name, s.Operation+" "+s.When))
			}
		}
	}
	return keepPrefix(found, prefix), cobra.ShellCompDirectiveNoFileComp
}

func newScheduleListCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:               "list",
		Short:             "List the schedules, when they run, and how they went last",
		Example:           `  arcstore schedule list --json`,
		Args:              takes(0, 0, "no arguments"),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withServer(cmd.Context(), func(c *client.Client) error {
				list, err := listSchedules(cmd.Context(), c)
				if err != nil {
					return err
				}
				return a.result(list, func(w io.Writer) { printSchedules(w, list) })
			})
		},
	}
	return exits(cmd, exitFailed, exitUsage)
}

func listSchedules(ctx context.Context, c *client.Client) ([]schedule.Status, error) {
	var list []schedule.Status
	err := c.Call(ctx, "GET", "/v1/schedules", nil, &list, nil)
	return list, err
}

func printSchedules(w io.Writer, list []schedule.Status) {
	t := newTable("NAME", "DOES", "WHEN", "NEXT", "LAST", "RESULT", "FAILURES", "UNPUSHED")
	for _, s := range list {
		next := "-"
		switch {
		case s.Running:
			next = "runs now"
		case s.Paused:
			next = "paused"
		case !s.Next.IsZero():
			next = moment(s.Next)
		}
		last, result := "-", "-"
		if s.Last != nil {
			last, result = moment(s.Last.Started), string(s.Last.Result)
		}
		t.add(s.Name, strings.TrimSpace(s.Operation+" "+s.Subject), s.When, next, last, result, count(s.Failures), count(s.Unpushed))
	}
	t.print(w)
	for _, s := range list {
		if s.Last != nil && s.Last.Error != "" {
			fmt.Fprintf(w, "\n%s: %s\n", s.Name, printable(plain(errors.New(s.Last.Error))))
		}
	}
}

func newScheduleHistoryCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:               "history NAME",
		Short:             "List the last runs of a schedule",
		Example:           `  arcstore schedule history web-1`,
		Args:              takes(1, 1, "the NAME of a schedule"),
		ValidArgsFunction: atMost(1, a.completeSchedules),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withServer(cmd.Context(), func(c *client.Client) error {
				var runs []schedule.Run
				if err := c.Call(cmd.Context(), "GET", schedulePath(args[0], "history"), nil, &runs, nil); err != nil {
					return err
				}
				return a.result(runs, func(w io.Writer) { printRuns(w, runs) })
			})
		},
	}
	return exits(cmd, exitFailed, exitUsage)
}

func schedulePath(name, verb string) string {
	return "/v1/schedules/" + url.PathEscape(name) + "/" + verb
}

func printRuns(w io.Writer, runs []schedule.Run) {
	t := newTable("STARTED", "RESULT", "TOOK", "TRIES", "SNAPSHOT", "STORED", "PAUSE", "PUSHED", "REMOVED", "WHY")
	for _, r := range runs {
		snapshot, pause := "-", "-"
		if r.Snapshot != "" {
			snapshot = r.Snapshot[:min(8, len(r.Snapshot))]
		}
		if r.Pause > 0 {
			pause = took(r.Pause)
		}
		t.add(moment(r.Started), string(r.Result), took(r.Duration), count(r.Tries), snapshot, size(r.Stored), pause, count(r.Pushed), count(r.Removed), printable(r.Error))
	}
	t.print(w)
}

func newScheduleRunCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "run NAME",
		Short: "Run a schedule now",
		Long: `Run runs a schedule now, once what it runs already has ended, and waits until it is done. It fails if that
does. What is due by itself stays as it is, but for a schedule that runs every so often: its time begins anew.`,
		Example:           `  arcstore schedule run web-1`,
		Args:              takes(1, 1, "the NAME of a schedule"),
		ValidArgsFunction: atMost(1, a.completeSchedules),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withServer(cmd.Context(), func(c *client.Client) error {
				p := a.progress()
				defer p.close()
				var run schedule.Run
				err := c.Call(cmd.Context(), "POST", schedulePath(args[0], "run"), nil, &run, a.events(p))
				p.close()
				if err != nil {
					return err
				}
				if err := a.result(run, func(w io.Writer) { printRuns(w, []schedule.Run{run}) }); err != nil {
					return err
				}
				if run.Result != schedule.Done {
					return fmt.Errorf("the schedule %s %s: %s", args[0], run.Result, run.Error)
				}
				return nil
			})
		},
	}
	return exits(cmd, exitFailed, exitUsage, exitInterrupted)
}

func newScheduleSwitchCommand(a *app, verb, short, past string) *cobra.Command {
	cmd := &cobra.Command{
		Use:               verb + " NAME",
		Short:             short,
		Example:           "  arcstore schedule " + verb + " web-1",
		Args:              takes(1, 1, "the NAME of a schedule"),
		ValidArgsFunction: atMost(1, a.completeSchedules),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withServer(cmd.Context(), func(c *client.Client) error {
				if err := c.Call(cmd.Context(), "POST", schedulePath(args[0], verb), nil, nil, nil); err != nil {
					return err
				}
				return a.result(map[string]string{"name": args[0], "state": past}, func(w io.Writer) { fmt.Fprintln(w, past, args[0]) })
			})
		},
	}
	return exits(cmd, exitFailed, exitUsage)
}

func newScheduleCheckCommand(a *app) *cobra.Command {
	var within time.Duration
	cmd := &cobra.Command{
		Use:   "check [--within DURATION]",
		Short: "Fail if a schedule does: for monitoring",
		Long: `Check fails where nobody serves the store, where the last run of a schedule failed, or, with --within, where
none was done for so long. A schedule that is paused fails no check, and is named.`,
		Example:           `  arcstore schedule check --within 26h`,
		Args:              takes(0, 0, "no arguments"),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if within < 0 {
				return usagef("--within %s is negative", within)
			}
			return a.withServer(cmd.Context(), func(c *client.Client) error {
				list, err := listSchedules(cmd.Context(), c)
				if err != nil {
					return err
				}
				return runScheduleCheck(a, list, within, time.Now())
			})
		},
	}
	cmd.Flags().DurationVar(&within, "within", 0, "each schedule was done within so long")
	must(cmd.RegisterFlagCompletionFunc("within", cobra.NoFileCompletions))
	return exits(cmd, exitFailed, exitUsage)
}

// checked is what a check says of one schedule.
type checked struct {
	Name string `json:"name"`
	OK   bool   `json:"ok"`
	Why  string `json:"why,omitempty"`
}

func runScheduleCheck(a *app, list []schedule.Status, within time.Duration, now time.Time) error {
	all, failed := []checked{}, 0
	for _, s := range list {
		c := checked{Name: s.Name, OK: true}
		switch {
		case s.Paused:
			c.Why = "it is paused"
		case s.Failures > 0:
			c.OK, c.Why = false, fmt.Sprintf("it failed %s in a row", plural(s.Failures, "time", "times"))
			if s.Last != nil && s.Last.Error != "" {
				c.Why += ": " + plain(errors.New(s.Last.Error))
			}
		case within > 0 && s.LastSuccess.IsZero():
			c.OK, c.Why = false, "it was never done"
		case within > 0 && now.Sub(s.LastSuccess) > within:
			c.OK, c.Why = false, "it was last done at "+moment(s.LastSuccess)
		}
		if !c.OK {
			failed++
		}
		all = append(all, c)
	}
	err := a.result(all, func(w io.Writer) {
		t := newTable("NAME", "STATUS", "WHY")
		for _, c := range all {
			status := "ok"
			if !c.OK {
				status = "failed"
			}
			t.add(c.Name, status, printable(c.Why))
		}
		t.print(w)
	})
	if err == nil && failed > 0 {
		err = hinted{fmt.Errorf("%s", plural(failed, "schedule fails", "schedules fail")), "arcstore schedule history NAME tells more"}
	}
	return err
}

func newConfigCommand(a *app) *cobra.Command {
	cmd := group(&cobra.Command{
		Use:   "config",
		Short: "Configuration of arcstore serve",
		Long:  "The configuration says what arcstore serve does by itself, and when.",
		Example: `  arcstore config example >/etc/arcstore.yaml
  arcstore config check /etc/arcstore.yaml`,
	})
	check := &cobra.Command{
		Use:     "check FILE",
		Short:   "Check a configuration without using it",
		Long:    "Check says what cannot be in a configuration, or lists its schedules with the next time of each.",
		Example: `  arcstore config check /etc/arcstore.yaml`,
		Args:    takes(1, 1, "a FILE"),
		RunE: func(_ *cobra.Command, args []string) error {
			c, err := readConfig(args[0])
			if err != nil {
				return err
			}
			plans := c.Plan(time.Now())
			return a.result(plans, func(w io.Writer) {
				t := newTable("NAME", "DOES", "WHEN", "NEXT")
				for _, p := range plans {
					t.add(p.Name, strings.TrimSpace(p.Operation+" "+p.Subject), p.When, moment(p.Next))
				}
				t.print(w)
			})
		},
	}
	example := &cobra.Command{
		Use:               "example",
		Short:             "Print a configuration with comments",
		Example:           `  arcstore config example >/etc/arcstore.yaml`,
		Args:              takes(0, 0, "no arguments"),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(*cobra.Command, []string) error {
			_, err := io.WriteString(a.stdout, schedule.Example)
			return err
		},
	}
	cmd.AddCommand(exits(check, exitFailed, exitUsage), exits(example, exitUsage))
	return cmd
}

// failingSchedules says to who lists snapshots that there may be fewer than there should.
func (a *app) failingSchedules() {
	states, err := schedule.States(a.store)
	if err != nil {
		return // a list of snapshots is not the place
	}
	for _, s := range states {
		if s.Failures > 0 && !s.Gone {
			a.note("the schedule %s failed %s in a row; arcstore schedule list tells more", s.Name, plural(s.Failures, "time", "times"))
		}
	}
}
