package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/arcboxlabs/arcstore"
)

type restoreOptions struct {
	check   bool
	vmm     string
	output  string
	force   bool
	stream  string
	salvage bool
	run     bool
	process arcstore.RunOptions
}

func newRestoreCommand(a *app) *cobra.Command {
	var opt restoreOptions
	cmd := &cobra.Command{
		Use:   "restore ID --output DIR | --run | --runc NEWID --bundle DIR | --check",
		Short: "Bring a snapshot back",
		Long: `Restore writes every stream of a snapshot as a sparse file under DIR, each under
its name, or with --stream that one alone. With --output - that stream goes to
stdout, zeros included. All data is verified on its way: what is damaged ends the
restore, and a file appears under its name only when all of it is right. With
--allow-damaged, what cannot be had is left as zeros, and named with its place; the exit
code is 4 then.

The snapshot of a container comes back to life with --run: the processes, with the IDs that they
had, or with --runc, as a container of runc's from a bundle; show tells which. That needs root
and CRIU, the files that the processes had open as they were, their ports and, with --run, their
process IDs free, and room for all of their memory in $TMPDIR, where CRIU's images are meanwhile.

What a snapshot was taken on is kept with it. --check compares that with this machine, and
with --vmm with a VMM, and does nothing else: it fails where the snapshot could not go on here.
So does --run, before it does anything, unless it is told to ignore that.

What fails or is interrupted takes back what it made; files that it replaced stay replaced.

It needs no lock: it works beside a process that uses the store.`,
		Example: `  arcstore restore 7f3a09c1 --output /tmp/web-1
  arcstore restore web-1@latest --output /tmp/web-1 --stream vmstate --force
  arcstore restore web-1@latest --stream memory --output - | sha256sum
  arcstore restore db-1@latest --run --pid-file /run/db-1.pid
  arcstore restore web-1@latest --runc web-2 --bundle /run/bundles/web-2
  arcstore restore db-1@latest --check`,
		Args:              takes(1, 1, "one ID"),
		ValidArgsFunction: atMost(1, a.completeSnapshots),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := oneOf(cmd, "output", "run", "runc", "check"); err != nil {
				return err
			}
			if opt.check {
				return runCheck(cmd.Context(), a, args[0], opt.vmm)
			}
			if opt.vmm != "" {
				return usagef("--vmm is for --check")
			}
			if cmd.Flags().Changed("runc") && opt.process.Runc == "" {
				return usagef("--runc is empty: it takes an ID for the container")
			}
			if opt.run || opt.process.Runc != "" {
				return runProcesses(cmd, a, opt, args[0])
			}
			return runRestore(cmd.Context(), a, opt, args[0])
		},
	}
	f := cmd.Flags()
	f.StringVar(&opt.output, "output", "", "`DIR` for the files, made if need be; - for stdout")
	f.BoolVar(&opt.force, "force", false, "replace files that exist")
	f.BoolVar(&opt.salvage, "allow-damaged", false, "restore what can be had of a damaged snapshot")
	f.StringVar(&opt.stream, "stream", "", "restore just the stream `NAME`")
	f.BoolVar(&opt.run, "run", false, "bring the processes of a container back to life")
	f.BoolVar(&opt.check, "check", false, "only say whether it can go on here")
	f.StringVar(&opt.vmm, "vmm", "", "with --check: what is to run it, as `NAME=VERSION`, such as qemu=7.2")
	f.BoolVar(&opt.process.IgnoreCompatibility, "ignore-compatibility", false, "with --run or --runc: try it even where it cannot go on here")
	must(cmd.RegisterFlagCompletionFunc("vmm", cobra.NoFileCompletions))
	a.fromFlag(cmd)
	f.StringVar(&opt.process.Runc, "runc", "", "bring them back as the container `NEWID` of runc's")
	f.StringVar(&opt.process.Bundle, "bundle", "", "that container's bundle `DIR`")
	f.StringVar(&opt.process.RuncRoot, "runc-root", "", "runc's --root `DIR`")
	f.StringVar(&opt.process.PIDFile, "pid-file", "", "`FILE` for the ID of the first process")
	f.StringVar(&opt.process.Cgroup, "cgroup", "", "cgroup for the processes, as a `PATH` below the cgroup mounts; made if need be")
	for _, name := range []string{"bundle", "runc-root"} {
		must(cmd.MarkFlagDirname(name))
	}
	for _, name := range []string{"runc", "cgroup"} {
		must(cmd.RegisterFlagCompletionFunc(name, cobra.NoFileCompletions))
	}
	must(cmd.MarkFlagDirname("output"))
	must(cmd.RegisterFlagCompletionFunc("stream", a.completeStreams))
	return exits(cmd, exitFailed, exitUsage, exitNotFound, exitDamage, exitInterrupted)
}

func runRestore(ctx context.Context, a *app, opt restoreOptions, id string) error {
	toStdout := opt.output == "-"
	switch {
	case opt.output == "":
		return usagef("--output is empty: it takes a DIR, or - for stdout")
	case opt.process.IgnoreCompatibility:
		return usagef("--ignore-compatibility is for --run and --runc")
	case opt.process.PIDFile != "":
		return usagef("--pid-file is for --run and --runc")
	case opt.process.Cgroup != "":
		return usagef("--cgroup is for --run")
	case opt.process.Bundle != "" || opt.process.RuncRoot != "":
		return usagef("--bundle and --runc-root are for --runc")
	case toStdout && opt.stream == "":
		return usagef("one stream alone can go to stdout: name it with --stream")
	case toStdout && a.json:
		return usagef("stdout cannot take both the stream and --json")
	}
	return a.read(ctx, func(m *arcstore.Manager) error {
		p := a.progress()
		defer p.close()
		ro := &arcstore.RestoreOptions{Force: opt.force, Stream: opt.stream, AllowDamaged: opt.salvage, Progress: p.report()}
		if toStdout {
			report, err := m.RestoreStream(ctx, id, opt.stream, a.stdout, ro)
			p.close()
			if err != nil {
				return damagedRestore(err, opt)
			}
			printMissing(a.stderr, report.Missing)
			return missingError(report)
		}
		report, err := m.Restore(ctx, id, opt.output, ro)
		p.close()
		if errors.Is(err, arcstore.ErrExists) {
			return hinted{err, "--force replaces it"}
		}
		if err != nil {
			return damagedRestore(err, opt)
		}
		err = a.result(report, func(w io.Writer) {
			f := facts{}
			f.add("restored", "%s", report.Snapshot)
			f.add("to", "%s", opt.output)
			f.add("streams", "%s", count(report.Streams))
			f.add("size", "%s", size(report.Bytes))
			f.add("written", "%s", size(report.BytesData))
			f.add("took", "%s", took(report.Duration))
			f.print(w)
			printMissing(w, report.Missing)
		})
		if err != nil {
			return err
		}
		return missingError(report)
	})
}

// runProcesses restores to running processes.
func runProcesses(cmd *cobra.Command, a *app, opt restoreOptions, id string) error {
	for _, name := range []string{"force", "stream", "allow-damaged"} {
		if cmd.Flags().Changed(name) {
			return usagef("--%s is for --output", name)
		}
	}
	if (opt.process.Runc == "") != (opt.process.Bundle == "") {
		return usagef("--runc and --bundle go together: a container is made from a bundle")
	}
	if opt.process.Cgroup != "" && opt.process.Runc != "" {
		return usagef("--cgroup is for --run: a container's bundle names its cgroup")
	}
	if opt.process.RuncRoot != "" && opt.process.Runc == "" {
		return usagef("--runc-root is for --runc")
	}
	return a.read(cmd.Context(), func(m *arcstore.Manager) error {
		p := a.progress()
		defer p.close()
		opt.process.Progress = p.report()
		report, err := m.Run(cmd.Context(), id, &opt.process)
		p.close()
		switch {
		case arcstore.IsCorrupt(err):
			return hinted{err, "no process was started; --output DIR --allow-damaged restores the images as far as they can be had"}
		case errors.Is(err, arcstore.ErrIncompatible):
			return hinted{err, "nothing was started; --ignore-compatibility tries it"}
		case errors.Is(err, arcstore.ErrOtherKind) && opt.run:
			return hinted{err, "use --runc NEWID --bundle DIR"}
		case errors.Is(err, arcstore.ErrOtherKind):
			return hinted{err, "use --run"}
		case err != nil:
			return err
		}
		return a.result(report, func(w io.Writer) {
			f := facts{}
			f.add("restored", "%s", report.Snapshot)
			f.add("process", "%d", report.PID)
			if report.Container != "" {
				f.add("container", "%s", report.Container)
			}
			f.add("processes", "%s", count(report.Processes))
			f.add("images", "%s", size(report.Bytes))
			f.add("took", "%s", took(report.Duration))
			f.print(w)
		})
	})
}

// damagedRestore says what to do about a restore that met damage.
func damagedRestore(err error, opt restoreOptions) error {
	switch {
	case !arcstore.IsCorrupt(err):
		return err
	case opt.salvage:
		return hinted{err, "nothing of it can be had"}
	}
	return hinted{err, "nothing wrong was written; --allow-damaged restores the rest, and verify --data shows what else is affected"}
}

// missingError is how a restore ends that could not get everything.
func missingError(r *arcstore.RestoreReport) error {
	if len(r.Missing) == 0 {
		return nil
	}
	lost := int64(0)
	for _, m := range r.Missing {
		lost += m.Length
	}
	return hinted{fmt.Errorf("%w: %s could not be restored and read as zeros", errDamage, size(lost)), "the rest is as it was captured"}
}

// missingShown is how many ranges are printed.
const missingShown = 50

func printMissing(w io.Writer, missing []arcstore.Missing) {
	for i, m := range missing {
		if i == missingShown {
			fmt.Fprintf(w, "missing  %s more\n", plural(len(missing)-i, "range", "ranges"))
			return
		}
		fmt.Fprintf(w, "missing  %s at byte %d, %d bytes: %s\n", printable(m.Stream), m.Offset, m.Length, printable(m.Why))
	}
}
