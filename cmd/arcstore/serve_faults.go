package main

import (
	"errors"
	"time"

	"github.com/spf13/cobra"

	"github.com/arcboxlabs/arcstore"
)

type serveFaultsOptions struct {
	socket       string
	clones       int
	user         int
	cache        sizeFlag
	fill         sizeFlag
	record       time.Duration
	noWorkingSet bool
	complete     bool
}

func newServeFaultsCommand(a *app) *cobra.Command {
	opt := serveFaultsOptions{clones: 1, user: -1, cache: 128 << 20, fill: 64 << 20, record: 10 * time.Second}
	cmd := &cobra.Command{
		Use:   "serve-faults ID --socket PATH",
		Short: "Run a guest at once, and load its memory as it touches it",
		Long: `Serve-faults waits at a socket until a VMM hands over the memory of a guest, as Firecracker does on
PUT /snapshot/load with a mem_backend of backend_type Uffd, and backend_path the socket. The guest
runs at once: what it touches is loaded, verified, before it goes on. Linux only.

What guests touched first in the first ten seconds is recorded (--record), and kept with the snapshot: the
next one finds it there before it asks. Then the rest is loaded, at the rate that --fill-rate says, and
when all is there, the guest goes on by itself, and this ends. SIGUSR1, or --complete, has that done as fast as it
goes; so do SIGTERM and SIGINT. It also ends when the VMM does.

The socket is gone once the guest is there, or with --clones as many as that: who comes late is
refused. Clones share what was decompressed (--cache). Should this process die, the VMM is killed, for
its guest would wait for ever. So it is where the memory that it hands over is not the snapshot's. A page that
is damaged is never loaded: who touches it gets SIGBUS.

It needs no lock, and goes on if the snapshot is deleted, and gc run, meanwhile.`,
		Example: `  arcstore serve-faults web-1@latest --socket /run/vm/web-2.faults
  arcstore serve-faults web-1@latest --socket /run/vm/clones.faults --clones 20 --fill-rate 0
  arcstore serve-faults 7f3a09c1 --from offsite --socket /run/vm/web-2.faults`,
		Args:              takes(1, 1, "one ID"),
		ValidArgsFunction: atMost(1, a.completeSnapshots),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case opt.socket == "":
				return usagef("no socket is given: name it with --socket")
			case opt.clones == 0 || opt.clones < -1:
				return usagef("--clones is a number from 1 on, or -1 for any number")
			case opt.record < 0:
				return usagef("--record is for how long: 10s, or 0 for not at all")
			}
			return runServeFaults(cmd, a, opt, args[0])
		},
	}
	f := cmd.Flags()
	f.StringVar(&opt.socket, "socket", "", "`PATH` of the Unix socket, which must not exist")
	f.IntVar(&opt.clones, "clones", opt.clones, "how many guests to serve; -1 for any number, until told to end")
	f.IntVar(&opt.user, "user", opt.user, "`UID` of the VMM, where that is not this user's")
	f.Var(&opt.cache, "cache", "how much to keep decompressed for all guests")
	f.Var(&opt.fill, "fill-rate", "bytes a second to load of what no guest asked for; 0 for none")
	f.DurationVar(&opt.record, "record", opt.record, "how long to record what the guest touches; 0 for not at all")
	f.BoolVar(&opt.noWorkingSet, "no-working-set", false, "load nothing because it was recorded")
	f.BoolVar(&opt.complete, "complete", false, "load everything at once")
	a.fromFlag(cmd)
	for _, name := range []string{"clones", "user", "record"} {
		must(cmd.RegisterFlagCompletionFunc(name, cobra.NoFileCompletions))
	}
	for _, name := range []string{"cache", "fill-rate"} {
		must(cmd.RegisterFlagCompletionFunc(name, cobra.FixedCompletions([]cobra.Completion{"64MiB", "256MiB", "1GiB"}, cobra.ShellCompDirectiveNoFileComp)))
	}
	return exits(cmd, exitFailed, exitUsage, exitNotFound, exitDamage)
}

// explainFaults says what to do about memory that is not the snapshot's.
func explainFaults(err error) error {
	if errors.Is(err, arcstore.ErrRegions) {
		return hinted{err, "load the state (vmstate) of the same snapshot"}
	}
	return err
}
