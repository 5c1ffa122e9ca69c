package main

import (
	"github.com/spf13/cobra"

	"github.com/arcboxlabs/arcstore"
	"github.com/arcboxlabs/arcstore/capture"
)

type createContainerOptions struct {
	container arcstore.Container
	ghost     sizeFlag
	about     aboutOptions
}

func newCreateContainerCommand(a *app) *cobra.Command {
	var opt createContainerOptions
	cmd := &cobra.Command{
		Use:   "container TARGET --pid N | --runc ID | --images DIR|ARCHIVE",
		Short: "Take a snapshot of a container or a process tree",
		Long: `Create container takes a snapshot of TARGET, a free name: of a process and all
its descendants (--pid), or of a container of runc's (--runc), through CRIU; or of a
checkpoint that somebody else made (--images), a directory of CRIU's images or an archive
of podman's or of Kubernetes' checkpoint API, plain or compressed.

Processes are stopped until their snapshot is durable, and killed then, unless
--leave-running lets them go on. Whatever goes wrong before that, an interruption
included, they go on as if nothing had happened.

The tree must be a session of its own (started with setsid), with its input and output at
/dev/null or in files that stay. A snapshot has the processes, not their files: to come back
they need each file that they have open at the path, and of the size and mode, that it had
then. Only a log that is opened for appending may have grown.

CRIU must be allowed to leave out, or to keep, what reaches beyond the processes:
established TCP connections, file locks, mounts of the host and the like. A restore repeats these choices.

While it runs, CRIU's images lie uncompressed in the store's directory staging: it needs as
much room there as the processes have memory. A compressed archive is unpacked there, too.`,
		Example: `  arcstore create container db-1 --pid 4711 --leave-running
  arcstore create container web-1 --runc web-1 --tcp-established
  arcstore create container web-1 --images /tmp/web-1.tar.zst`,
		Args:              takes(1, 1, "the TARGET"),
		ValidArgsFunction: atMost(1, a.completeTargets),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runCreateContainer(cmd, a, opt, args[0])
		},
	}
	f := cmd.Flags()
	c, o := &opt.container, &opt.container.Options
	f.IntVar(&c.PID, "pid", 0, "process `ID` of the root of the tree")
	f.StringVar(&c.Runc, "runc", "", "`ID` of a running container of runc's")
	f.StringVar(&c.RuncRoot, "runc-root", "", "runc's --root `DIR`")
	f.StringVar(&c.Images, "images", "", "`PATH` of a directory of CRIU's images, or of a checkpoint archive")
	f.BoolVar(&c.LeaveRunning, "leave-running", false, "let the processes go on")
	f.BoolVar(&o.TCPEstablished, "tcp-established", false, "keep established TCP connections")
	f.BoolVar(&o.FileLocks, "file-locks", false, "keep file locks")
	f.BoolVar(&o.ShellJob, "shell-job", false, "allow processes of a terminal's session; restore --run can give them no terminal")
	f.BoolVar(&o.ExtUnixSockets, "ext-unix-sockets", false, "unix sockets may lead to processes outside")
	f.StringArrayVar(&o.External, "external", nil, "`RESOURCE` that is not captured, as CRIU names it, such as mnt[/data]:data; may be repeated")
	f.Var(&opt.ghost, "ghost-limit", "how large a deleted file may be that is still open (default 1MiB)")
	f.Lookup("ghost-limit").DefValue = ""
	f.IntVar(&c.PreDumps, "pre-dumps", capture.DefaultPreDumps, "read memory `N` times at most before the processes stop")
	must(cmd.MarkFlagDirname("runc-root"))
	for _, name := range []string{"pid", "runc", "external", "ghost-limit", "pre-dumps"} {
		must(cmd.RegisterFlagCompletionFunc(name, cobra.NoFileCompletions))
	}
	opt.about.addTo(a, cmd)
	return exits(cmd, exitFailed, exitUsage, exitNotFound, exitDamage, exitInUse, exitInterrupted)
}

func runCreateContainer(cmd *cobra.Command, a *app, opt createContainerOptions, target string) error {
	c := &opt.container
	if err := oneOf(cmd, "pid", "runc", "images"); err != nil {
		return err
	}
	switch {
	case cmd.Flags().Changed("pid") && c.PID <= 0:
		return usagef("--pid %d is no process ID", c.PID)
	case cmd.Flags().Changed("runc") && c.Runc == "":
		return usagef("--runc is empty: it takes the ID of a container")
	case c.RuncRoot != "" && c.Runc == "":
		return usagef("--runc-root is for --runc")
	case c.PreDumps < 0:
		return usagef("--pre-dumps %d is no number of times: give 0 for none", c.PreDumps)
	case opt.ghost > capture.MaxGhostLimit:
		return usagef("--ghost-limit %s is out of range: give less than 4GiB", opt.ghost.String())
	case cmd.Flags().Changed("images"):
		for _, name := range []string{"leave-running", "tcp-established", "file-locks", "shell-job", "ext-unix-sockets", "external", "ghost-limit", "pre-dumps"} {
			if cmd.Flags().Changed(name) {
				return usagef("--%s is for processes that run, not for --images", name)
			}
		}
		if err := checkImages(c.Images); err != nil {
			return err
		}
	}
	for _, resource := range c.Options.External {
		if !externalForm.MatchString(resource) {
			return usagef("--external %q names no resource: give it as KIND[WHICH]:NAME, such as mnt[/data]:data", resource)
		}
	}
	if c.PreDumps == 0 {
		c.PreDumps = -1
	}
	c.GhostLimit = int64(opt.ghost)
	req, err := opt.about.request(target)
	if err != nil {
		return err
	}
	for _, path := range []*string{&c.Images, &c.RuncRoot} {
		if *path, err = fullPath(*path); err != nil {
			return err
		}
	}
	req.Container = c
	return explainCheckpoint(a.create(cmd, req))
}
