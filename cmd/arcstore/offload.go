package main

import (
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/arcboxlabs/arcstore"
)

func newOffloadCommand(a *app) *cobra.Command {
	cmd := group(&cobra.Command{
		Use:   "offload",
		Short: "Take guests from Cloud Hypervisor, and hand them back",
		Long: `Offload is the other end of Cloud Hypervisor's vm.send-migration and vm.receive-migration, on the
same machine: it takes a guest as a snapshot, and hands a snapshot back as a guest. The guest's memory
goes over in files that both have open, not over the socket.`,
		Example: `  arcstore offload create web-1 --socket /run/vm/web-1.offload
  arcstore offload restore web-1@latest --socket /run/vm/web-1.restore --on-demand --resume`,
	})
	cmd.AddCommand(newOffloadCreateCommand(a), newOffloadRestoreCommand(a))
	return cmd
}

func newOffloadCreateCommand(a *app) *cobra.Command {
	var socket string
	var about aboutOptions
	cmd := &cobra.Command{
		Use:   "create TARGET --socket SOCKET",
		Short: "Take a snapshot of a guest that Cloud Hypervisor hands over",
		Long: `Offload create makes SOCKET, waits there for a Cloud Hypervisor to hand its guest over, and takes a
snapshot of it as TARGET. Cloud Hypervisor does so when it is told to:

  ch-remote --api-socket API send-migration destination_url=unix:SOCKET,local=on,preserve_source=on

The guest is paused until its snapshot is durable, and stays so; ch-remote resume lets it go on.
Without preserve_source=on, Cloud Hypervisor ends then. Where anything fails, Cloud Hypervisor
keeps its guest, as it was before, and there is no snapshot. Its memory must be shared
(--memory shared=on). Its disks are not part of the snapshot: copy them while it is paused.

SOCKET lets in processes of the same user, and of root. It is removed at the end.`,
		Example:           `  arcstore offload create web-1 --socket /run/vm/web-1.offload --name nightly`,
		Args:              takes(1, 1, "the TARGET"),
		ValidArgsFunction: atMost(1, a.completeTargets),
		RunE: func(cmd *cobra.Command, args []string) error {
			if socket == "" {
				return usagef("offload create needs --socket")
			}
			req, err := about.request(args[0])
			if err != nil {
				return err
			}
			req.Offload = new(arcstore.Offload)
			if req.Offload.Socket, err = fullPath(socket); err != nil {
				return err
			}
			return a.create(cmd, req)
		},
	}
	cmd.Flags().StringVar(&socket, "socket", "", "`SOCKET` to make (required)")
	about.addTo(a, cmd)
	return exits(cmd, exitFailed, exitUsage, exitNotFound, exitDamage, exitInUse, exitInterrupted)
}

func newOffloadRestoreCommand(a *app) *cobra.Command {
	var socket string
	var opt arcstore.OffloadOptions
	cmd := &cobra.Command{
		Use:   "restore ID --socket SOCKET",
		Short: "Hand a snapshot to Cloud Hypervisor as a guest",
		Long: `Offload restore hands a snapshot that offload create took to the Cloud Hypervisor that listens at
SOCKET, which it does when it is told to:

  ch-remote --api-socket API receive-migration receiver_url=unix:SOCKET

The guest's memory is complete before that, unless --on-demand is given: then it is empty, the guest
goes on at once, and each page is read when it is needed, and verified; meanwhile Cloud Hypervisor
fetches the others. It must have been told memory_mode=postcopy for that. This command ends when
Cloud Hypervisor has all pages, and is needed until then.

A page that is damaged is refused, never made up: a guest that needs it ends, and the exit code is 4.`,
		Example: `  arcstore offload restore web-1@latest --socket /run/vm/web-1.restore --resume
  arcstore offload restore web-1@latest --socket /run/vm/web-1.restore --resume --on-demand`,
		Args:              takes(1, 1, "an ID"),
		ValidArgsFunction: atMost(1, a.completeSnapshots),
		RunE: func(cmd *cobra.Command, args []string) error {
			if socket == "" {
				return usagef("offload restore needs --socket")
			}
			return runOffloadRestore(cmd, a, args[0], socket, opt)
		},
	}
	f := cmd.Flags()
	f.StringVar(&socket, "socket", "", "`SOCKET` at which Cloud Hypervisor listens (required)")
	f.BoolVar(&opt.OnDemand, "on-demand", false, "read pages when the guest needs them")
	f.BoolVar(&opt.Resume, "resume", false, "let the guest run; without, it stays paused")
	f.DurationVar(&opt.Wait, "wait", 10*time.Second, "how long to wait for Cloud Hypervisor to listen")
	must(cmd.RegisterFlagCompletionFunc("wait", cobra.NoFileCompletions))
	a.fromFlag(cmd)
	return exits(cmd, exitFailed, exitUsage, exitNotFound, exitDamage, exitInterrupted)
}

func runOffloadRestore(cmd *cobra.Command, a *app, id, socket string, opt arcstore.OffloadOptions) error {
	return a.read(cmd.Context(), func(m *arcstore.Manager) error {
		p := a.progress()
		defer p.close()
		opt.Progress = p.report()
		opt.Note = func(text string) { a.note("%s", text) }
		report, err := m.RestoreOffload(cmd.Context(), id, socket, &opt)
		p.close()
		if arcstore.IsCorrupt(err) {
			return hinted{err, "no wrong byte was handed over; verify --data shows what else is affected"}
		}
		if err != nil {
			return err
		}
		return a.result(report, func(w io.Writer) {
			f := facts{}
			f.add("restored", "%s", report.Snapshot)
			f.add("to", "%s", socket)
			f.add("memory", "%s", size(report.Bytes))
			if opt.OnDemand {
				f.add("asked for", "%s, in %s", size(report.BytesServed), plural(report.Faults, "request", "requests"))
			}
			f.add("ready after", "%s", took(report.Paused))
			f.add("took", "%s", took(report.Duration))
			f.print(w)
		})
	})
}
