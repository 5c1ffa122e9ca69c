package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"syscall"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"

	"github.com/arcboxlabs/arcstore"
	"github.com/arcboxlabs/arcstore/cmd/metrics"
	"github.com/arcboxlabs/arcstore/cmd/schedule"
	"github.com/arcboxlabs/arcstore/store/control"
)

type serveOptions struct {
	config  string
	log     string
	ui      string
	metrics string
}

func newServeCommand(a *app) *cobra.Command {
	var opt serveOptions
	cmd := &cobra.Command{
		Use:   "serve [--config FILE]",
		Short: "Hold the store, run its schedules, and answer for it",
		Long: `Serve holds the store until it is told to end, and answers at the socket control.sock in it: all other
commands find it there, and work as without it. Only processes of the same user, and of root, are let in.
Buckets are reached with the credentials that this process has.

With --config it does what the schedules in FILE say: snapshots, with their retention and their way to a
remote, gc, and verification. arcstore config example prints one with comments. SIGHUP reads it again;
what runs then goes on. One that cannot be used changes nothing.

With --ui it offers a page to look at: targets with their snapshots, what each added, what targets
have in common, schedules, and what runs; and to take, restore, verify and delete. Who wants in
needs the token, which is in ui.token in the store, or that of $` + uiTokenVariable + `. With --metrics
it has figures for Prometheus at /metrics there, for who asks; they are at the control socket, too.
An address without a host, such as :8080, is on this machine alone.

On SIGTERM, what runs by schedule may go on for as long as the configuration says, and all else ends in good
order: what is not complete then was never there. systemd is told when it is ready (Type=notify-reload).`,
		Example: `  arcstore serve
  arcstore config example >/etc/arcstore.yaml
  arcstore serve --config /etc/arcstore.yaml --log json --ui :8080`,
		Args:              takes(0, 0, "no arguments"),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runServe(cmd, a, opt)
		},
	}
	f := cmd.Flags()
	f.StringVar(&opt.config, "config", "", "`FILE` with the schedules")
	f.StringVar(&opt.log, "log", "text", "`FORM` of the log on stderr: text or json")
	must(cmd.RegisterFlagCompletionFunc("log", cobra.FixedCompletions([]string{"text", "json"}, cobra.ShellCompDirectiveNoFileComp)))
	f.StringVar(&opt.ui, "ui", "", "offer a page at `ADDR`")
	f.StringVar(&opt.metrics, "metrics", "", "have figures for Prometheus at `ADDR`")
	for _, name := range []string{"ui", "metrics"} {
		must(cmd.RegisterFlagCompletionFunc(name, cobra.NoFileCompletions))
	}
	return exits(cmd, exitFailed, exitUsage, exitDamage, exitInUse)
}

func runServe(cmd *cobra.Command, a *app, opt serveOptions) error {
	log, err := a.logger(opt.log)
	if err != nil {
		return err
	}
	var config *schedule.Config
	if opt.config != "" {
		if config, err = readConfig(opt.config); err != nil {
			return err
		}
	}
	// It does not end a server.
	signal.Reset(syscall.SIGHUP)
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)

	ctx := cmd.Context()
	counters := metrics.New()
	options := &arcstore.Options{Holder: cmd.CommandPath(), Guard: guardGuest, Observe: counters.Observe}
	err = a.open(ctx, options, func(m *arcstore.Manager) error {
		s := newService(a, m, log, opt, counters, arcstore.RemoteOptions{Holder: options.Holder, LockTimeout: a.lockTimeout,
			Secret: a.secret(context.WithoutCancel(ctx)), Patience: patience})
		return s.run(ctx, config, hangup)
	})
	var elsewhere *heldElsewhere
	if errors.As(err, &elsewhere) {
		elsewhere.client.Close()
	}
	return err
}

// logger returns the log of a process that runs for long.
func (a *app) logger(form string) (*slog.Logger, error) {
	options := &slog.HandlerOptions{Level: slog.LevelInfo}
	if a.quiet {
		options.Level = slog.LevelWarn
	}
	switch form {
	case "text":
		return slog.New(slog.NewTextHandler(a.stderr, options)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(a.stderr, options)), nil
	}
	return nil, usagef("--log %q is neither text nor json", form)
}

// readConfig is schedule.ReadConfig, in words of the command line.
func readConfig(name string) (*schedule.Config, error) {
	c, err := schedule.ReadConfig(name)
	if errors.Is(err, schedule.ErrConfig) {
		return nil, hinted{&usageError{plain(err)}, "arcstore config example prints one that can"}
	}
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	return c, nil
}

// service is what serve runs.
type service struct {
	app    *app
	m      *arcstore.Manager
	log    *slog.Logger
	opt    serveOptions
	remote arcstore.RemoteOptions
	jobs   control.Jobs

	metrics *metrics.Metrics
	runner  *schedule.Runner
}

// newService returns a service that is about to run.
func newService(a *app, m *arcstore.Manager, log *slog.Logger, opt serveOptions, counters *metrics.Metrics, remote arcstore.RemoteOptions) *service {
	s := &service{app: a, m: m, log: log, opt: opt, metrics: counters, remote: remote}
	s.runner = schedule.NewRunner(m, a.store, &schedule.Options{Remote: remote, Jobs: &s.jobs, Log: log,
		Observe: func(sc *schedule.Schedule, r schedule.Run) { counters.Ran(sc.Name, string(r.Result)) }})
	counters.Watch(metrics.Watched{Store: m,
		Jobs: func() (jobs []metrics.Job) {
			for _, j := range s.jobs.List() {
				jobs = append(jobs, metrics.Job{Operation: j.Operation})
			}
			return jobs
		},
		Schedules: func() (all []metrics.Schedule) {
			for _, st := range s.runner.List() {
				all = append(all, metrics.Schedule{Name: st.Name, Failures: st.Failures, Unpushed: st.Unpushed, LastSuccess: st.LastSuccess, Next: st.Next})
			}
			return all
		}})
	return s
}

// handlers are what is answered besides what the store itself has.
func (s *service) handlers() map[string]http.Handler {
	schedules := s.runner.Handler()
	return map[string]http.Handler{"/v1/schedules": schedules, "/v1/schedules/": schedules,
		"GET /metrics": s.metricsHandler()}
}

// run serves until ctx ends.
func (s *service) run(ctx context.Context, config *schedule.Config, hangup <-chan os.Signal) error {
	l, err := s.m.Listen()
	if err != nil {
		return err
	}
	closePages, err := s.openPages()
	if err != nil {
		return errors.Join(err, l.Close())
	}
	defer closePages()
	// Answers are given as long as anything runs.
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	ended := make(chan error, 1)
	handlers := s.handlers()
	go func() {
		ended <- s.m.Serve(serving, l, &arcstore.ServeOptions{Remote: s.remote, Jobs: &s.jobs, Handlers: handlers})
	}()
	if config != nil {
		s.runner.Apply(config)
	}
	s.log.Info("answers for " + s.app.store)
	notify(daemon.SdNotifyReady)
	for {
		select {
		case err := <-ended: // by itself
			s.runner.Close()
			return err
		case <-hangup:
			s.reload()
		case <-ctx.Done():
			s.log.Info("ends")
			notify(daemon.SdNotifyStopping)
			s.runner.Close()
			stop()
			return <-ended
		}
	}
}

// reload reads the configuration again.
func (s *service) reload() {
	notify(daemon.SdNotifyReloading + "\n" + monotonicTime())
	defer notify(daemon.SdNotifyReady)
	if s.opt.config == "" {
		s.log.Warn("there is no configuration to read again: serve --config FILE has one")
		return
	}
	config, err := readConfig(s.opt.config)
	if err != nil {
		s.log.Error("the configuration stays as it was", "error", plain(err))
		return
	}
	s.runner.Apply(config)
	s.log.Info("read the configuration again", "schedules", len(config.Schedules))
}

// notify tells systemd, if it started this process.
func notify(state string) {
	_, _ = daemon.SdNotify(false, state) // nobody may be listening
}
