package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/arcboxlabs/arcstore"
	"github.com/arcboxlabs/arcstore/cmd/client"
)

// storeVariable names the environment variable that --store defaults to.
const storeVariable = "ARCSTORE_DIR"

// app is what all commands share: the streams and the global flags.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer

	store       string
	json        bool
	quiet       bool
	lockTimeout time.Duration
	from        string // the remote that is read instead of the store
	keyFile     string
	answered    arcstore.Secret // once it was asked for
	mute        bool            // nobody is to be asked anything
}

// run is the program: it returns the exit code.
func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	signals := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) { // as nohup has it
		signals = append(signals, syscall.SIGHUP)
	}
	ctx, stop := signal.NotifyContext(context.Background(), signals...)
	defer stop()
	// The first signal ends the operation in good order; a second one ends the program.
	context.AfterFunc(ctx, stop)

	a := &app{stdin: stdin, stdout: stdout, stderr: stderr}
	root := newRootCommand(a)
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	if err != nil && ctx.Err() != nil {
		err = errInterrupted
	}
	if err != nil {
		fmt.Fprintln(stderr, message(err, cmd.CommandPath()))
	}
	return exitCode(err)
}

func newRootCommand(a *app) *cobra.Command {
	root := group(&cobra.Command{
		Use:   "arcstore",
		Short: "Snapshots of virtual machines and containers: deduplicated, compressed, incremental, verified",
		Long: `arcstore keeps snapshots of virtual machines and containers, of their memory and their
state: deduplicated, compressed, incremental, verified.

A snapshot is named by its ID, a unique prefix of it, or TARGET@latest.
Results go to stdout, as one JSON document with --json; progress and messages
go to stderr. What opens an encrypted store is a key file, or a passphrase from
` + passphraseVariable + ` or typed at a terminal.`,
		Example: `  export ` + storeVariable + `=/var/lib/arcstore
  arcstore init
  arcstore create vm web-1 --memory /run/vm/web-1.ram --state vmstate=/run/vm/web-1.state
  arcstore create container db-1 --pid 4711 --leave-running
  arcstore list
  arcstore restore web-1@latest --output /tmp/web-1
  arcstore restore db-1@latest --run`,
	})
	root.SilenceErrors = true
	root.SilenceUsage = true
	root.SetIn(a.stdin)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return flagError(err) })
	root.SetUsageTemplate(root.UsageTemplate() + exitTemplate)

	flags := root.PersistentFlags()
	flags.StringVar(&a.store, "store", os.Getenv(storeVariable), "directory of the store (default $"+storeVariable+")")
	flags.Lookup("store").DefValue = "" // the help is the same on every machine
	flags.BoolVar(&a.json, "json", false, "print the result as one JSON document")
	flags.BoolVar(&a.quiet, "quiet", false, "no progress and no messages, only results and errors")
	flags.DurationVar(&a.lockTimeout, "lock-timeout", 0, "how long to wait for a store that another process uses (30s, 5m)")
	flags.StringVar(&a.keyFile, "key-file", os.Getenv(keyFileVariable), "key `FILE` of an encrypted store (default $"+keyFileVariable+")")
	flags.Lookup("key-file").DefValue = ""
	must(root.MarkPersistentFlagDirname("store"))
	must(root.RegisterFlagCompletionFunc("lock-timeout", cobra.NoFileCompletions))

	root.AddCommand(
		newInitCommand(a), newCreateCommand(a), newListCommand(a), newShowCommand(a), newDiffCommand(a), newStatsCommand(a),
		newRestoreCommand(a), newExportCommand(a), newImportCommand(a), newOffloadCommand(a), newDeleteCommand(a), newPruneCommand(a), newGCCommand(a), newVerifyCommand(a),
		newReindexCommand(a), newCompressionCommand(a), newKeyCommand(a), newRemoteCommand(a), newPushCommand(a), newPullCommand(a), newServeCommand(a), newServeFaultsCommand(a), newMountCommand(a), newScheduleCommand(a), newConfigCommand(a), newDoctorCommand(a), newDemoCommand(a), newDemoGuestCommand(a), newResumeGuestCommand(a), newKillGuestCommand(a),
		newVersionCommand(a),
	)
	describeCobrasOwn(root)
	return root
}

// group makes cmd a command that only holds others.
func group(cmd *cobra.Command) *cobra.Command {
	cmd.Args = cobra.ArbitraryArgs
	// Of a command that is mistyped, that is what is wrong, not its flags.
	cmd.FParseErrWhitelist.UnknownFlags = true
	cmd.SuggestionsMinimumDistance = 2
	cmd.ValidArgsFunction = cobra.NoFileCompletions
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			cmd.SetOut(cmd.ErrOrStderr())
			return errors.Join(&usageError{"no command is given"}, cmd.Help())
		}
		text := fmt.Sprintf("there is no command %q", strings.TrimPrefix(cmd.CommandPath()+" "+args[0], "arcstore "))
		if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
			text += ", did you mean " + strings.Join(near, " or ") + "?"
		}
		return &usageError{text}
	}
	return exits(cmd, exitUsage)
}

// describeCobrasOwn gives the commands that cobra adds what every command here has: an example and its exit codes.
func describeCobrasOwn(root *cobra.Command) {
	root.SetHelpCommand(exits(&cobra.Command{
		Use:     "help [COMMAND]",
		Short:   "Help about a command",
		Example: "  arcstore help create vm",
		ValidArgsFunction: func(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
			found, _, err := root.Find(args)
			if err != nil {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			var names []cobra.Completion
			for _, c := range found.Commands() {
				if c.IsAvailableCommand() {
					names = append(names, cobra.CompletionWithDesc(c.Name(), c.Short))
				}
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(_ *cobra.Command, args []string) error {
			found, rest, err := root.Find(args)
			if err != nil || len(rest) > 0 {
				return &usageError{fmt.Sprintf("there is no command %q", strings.Join(args, " "))}
			}
			found.InitDefaultHelpFlag()
			return found.Help()
		},
	}, exitUsage))
	root.InitDefaultCompletionCmd()
	for _, c := range root.Commands() {
		if c.Name() != "completion" {
			continue
		}
		exits(c, exitUsage)
		c.Example = "  source <(arcstore completion bash)"
		for _, shell := range c.Commands() {
			exits(shell, exitUsage)
			shell.Example = "  arcstore completion " + shell.Name()
		}
	}
}

// directory returns the store's directory.
func (a *app) directory() (string, error) {
	if a.store == "" {
		return "", &usageError{"no store is given: use --store DIR or set " + storeVariable}
	}
	return a.store, nil
}

// read opens the store without its lock, beside whoever holds it.
func (a *app) read(ctx context.Context, use func(*arcstore.Manager) error) error {
	return a.readWith(ctx, &arcstore.RemoteOptions{}, use)
}

// readLong is read for what goes on for long, and after it was told to end: it leaves a bucket's cache to other commands.
func (a *app) readLong(ctx context.Context, use func(*arcstore.Manager) error) error {
	return a.readWith(context.WithoutCancel(ctx), &arcstore.RemoteOptions{NoCache: true}, use)
}

func (a *app) readWith(ctx context.Context, opts *arcstore.RemoteOptions, use func(*arcstore.Manager) error) error {
	if a.from != "" {
		return a.withRemote(ctx, a.from, opts, func(r *arcstore.Remote) error {
			if r.Snapshots == nil {
				return errNothingPushed
			}
			err := use(r.Snapshots)
			if errors.Is(err, arcstore.ErrNotFound) {
				return hinted{err, remoteLsHint}
			}
			return err
		})
	}
	return a.open(ctx, &arcstore.Options{ReadOnly: true}, use)
}

func (a *app) open(ctx context.Context, opts *arcstore.Options, use func(*arcstore.Manager) error) error {
	dir, err := a.directory()
	if err != nil {
		return err
	}
	opts.Secret = a.secret(ctx)
	m, err := arcstore.Open(ctx, dir, opts)
	if errors.Is(err, arcstore.ErrInUse) {
		c, derr := client.Dial(ctx, dir)
		if derr == nil {
			return &heldElsewhere{err, c}
		}
		if a.lockTimeout > 0 {
			a.note("%s, waiting for it", plain(err))
			opts.LockTimeout = a.lockTimeout
			m, err = arcstore.Open(ctx, dir, opts)
		}
	}
	if arcstore.IsCorrupt(err) {
		return hinted{err, ""} // no other command can open it either
	}
	if errors.Is(err, arcstore.ErrNoStore) {
		return hinted{fmt.Errorf("there is no store in %s", dir), "arcstore init makes one"}
	}
	if err != nil {
		return err
	}
	err = use(m)
	if cerr := m.Close(); err == nil {
		err = cerr
	}
	return err
}

// result prints what a command found out: v as JSON, or what text prints.
func (a *app) result(v any, text func(io.Writer)) error {
	var b strings.Builder
	if a.json {
		e := json.NewEncoder(&b)
		e.SetEscapeHTML(false)
		e.SetIndent("", "  ")
		if err := e.Encode(v); err != nil {
			return fmt.Errorf("encode the result: %w", err)
		}
	} else {
		text(&b)
	}
	if _, err := io.WriteString(a.stdout, b.String()); err != nil {
		return fmt.Errorf("print the result: %w", err)
	}
	return nil
}

// note prints a message for people.
func (a *app) note(format string, args ...any) {
	if !a.quiet {
		fmt.Fprintf(a.stderr, "arcstore: "+format+"\n", args...)
	}
}

// warn prints a message that --quiet does not silence.
func (a *app) warn(text string) { fmt.Fprintf(a.stderr, "arcstore: warning: %s\n", text) }

// stderrIsTerminal reports whether somebody is watching.
func (a *app) stderrIsTerminal() bool {
	f, ok := a.stderr.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// must is for what only a mistake in this program can make fail.
func must(err error) {
	if err != nil {
		panic(err)
	}
}
