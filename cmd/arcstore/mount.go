package main

import (
	"github.com/spf13/cobra"
)

type mountOptions struct {
	allowOther bool
	cache      sizeFlag
	readAhead  sizeFlag
}

func newMountCommand(a *app) *cobra.Command {
	opt := mountOptions{cache: 128 << 20, readAhead: 4 << 10}
	cmd := &cobra.Command{
		Use:   "mount DIR",
		Short: "Show the snapshots as files, read as they are needed",
		Long: `Mount shows the streams of all snapshots as files under DIR, an empty directory: TARGET/ID/memory and so on,
and TARGET/latest. They are there at once, whatever their size: what is read is loaded, verified, and what
is damaged cannot be read. A VMM maps such a file as it would any other (QEMU's memory-backend-file with
share=off, Firecracker's File backend); all who map it share what the kernel keeps of it. Holes are holes.
Linux only; it takes root, or fusermount3.

Snapshots that are taken later appear, too. It needs no lock. A file that is open can be read to its end
even if its snapshot is deleted, and gc run, meanwhile.

SIGTERM and SIGINT unmount it and end the command, as soon as nobody uses it anymore.`,
		Example: `  arcstore mount /mnt/snapshots
  arcstore mount /mnt/offsite --from offsite
  M=/mnt/snapshots/web-1/latest/memory
  qemu-system-x86_64 ... -object memory-backend-file,id=m0,size=1G,share=off,readonly=on,rom=off,mem-path=$M`,
		Args: takes(1, 1, "one DIR"),
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return nil, cobra.ShellCompDirectiveFilterDirs
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return runMount(cmd, a, opt, args[0])
		},
	}
	f := cmd.Flags()
	f.BoolVar(&opt.allowOther, "allow-other", false, "let processes of other users in")
	f.Var(&opt.cache, "cache", "how much to keep decompressed")
	f.Var(&opt.readAhead, "read-ahead", "how much the kernel reads around what is touched in a mapping")
	must(cmd.RegisterFlagCompletionFunc("read-ahead", cobra.FixedCompletions([]cobra.Completion{"4KiB", "64KiB", "128KiB"}, cobra.ShellCompDirectiveNoFileComp)))
	must(cmd.RegisterFlagCompletionFunc("cache", cobra.FixedCompletions([]cobra.Completion{"64MiB", "256MiB", "1GiB"}, cobra.ShellCompDirectiveNoFileComp)))
	a.fromFlag(cmd)
	return exits(cmd, exitFailed, exitUsage)
}
