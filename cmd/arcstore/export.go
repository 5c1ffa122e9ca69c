package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/spf13/cobra"

	"github.com/arcboxlabs/arcstore"
)

type exportOptions struct {
	format   string
	compress string
	force    bool
}

// What export can write.
var (
	exportFormats  = []string{"podman", "arcbox", "elf-core", "mapped-ram", "cloud-hypervisor"}
	exportCompress = []string{"none", "gzip", "zstd"}
)

func newExportCommand(a *app) *cobra.Command {
	var opt exportOptions
	cmd := &cobra.Command{
		Use:   "export ID --format FORMAT FILE|DIR|-",
		Short: "Write a snapshot in the form of another tool",
		Long: `Export writes a snapshot in a form that another tool takes, to FILE, to a directory below DIR,
or an archive to stdout (-).

podman: a container's checkpoint as an archive for podman container restore
--import and for checkpointctl. What was taken of an archive is, byte for byte,
that archive again, but for its compression; what was not lacks the file system
and the settings of a container, which arcstore does not capture.

arcbox: a directory below DIR, named after the snapshot's ID, as arcbox-snapshot makes them.
Memory is a sparse file. What was imported from one comes out as it was; of a VM that was not,
it has the memory, and the other state in files beside that arcbox-snapshot does not read.

elf-core, mapped-ram, cloud-hypervisor: the FILE, or the directory DIR, that the snapshot was taken
of, byte for byte. Memory is sparse.`,
		Example: `  arcstore export web-1@latest --format podman /tmp/web-1.tar
  arcstore export web-1@latest --format podman --compress zstd /tmp/web-1.tar.zst
  arcstore export web-1@latest --format podman - | tar tv
  arcstore export web-1@latest --format arcbox /var/lib/arcbox/snapshots`,
		Args: takes(2, 2, "an ID and a FILE"),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
			if len(args) == 0 {
				return a.completeSnapshots(cmd, args, prefix)
			}
			return nil, cobra.ShellCompDirectiveDefault
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return runExport(cmd, a, opt, args[0], args[1])
		},
	}
	f := cmd.Flags()
	f.StringVar(&opt.format, "format", "", "`FORMAT` to write: "+strings.Join(exportFormats, ", ")+" (required)")
	f.StringVar(&opt.compress, "compress", "none", "`HOW` to compress an archive: "+strings.Join(exportCompress, ", "))
	f.BoolVar(&opt.force, "force", false, "replace FILE if it exists and is a regular file")
	must(cmd.RegisterFlagCompletionFunc("format", cobra.FixedCompletions(exportFormats, cobra.ShellCompDirectiveNoFileComp)))
	must(cmd.RegisterFlagCompletionFunc("compress", cobra.FixedCompletions(exportCompress, cobra.ShellCompDirectiveNoFileComp)))
	return exits(cmd, exitFailed, exitUsage, exitNotFound, exitDamage, exitInterrupted)
}

func runExport(cmd *cobra.Command, a *app, opt exportOptions, id, file string) error {
	switch {
	case opt.format == "":
		return usagef("export needs --format: one of %s", strings.Join(exportFormats, ", "))
	case !slices.Contains(exportFormats, opt.format):
		return usagef("there is no format %q: give one of %s", opt.format, strings.Join(exportFormats, ", "))
	case !slices.Contains(exportCompress, opt.compress):
		return usagef("there is no compression %q: give one of %s", opt.compress, strings.Join(exportCompress, ", "))
	case opt.format == "arcbox":
		for _, name := range []string{"compress", "force"} {
			if cmd.Flags().Changed(name) {
				return usagef("--%s is for archives", name)
			}
		}
		if file == "-" {
			return usagef("arcbox is a directory, and stdout takes none: give a DIR, or ./- for one of that name")
		}
		return runExportArcbox(cmd, a, id, file)
	case slices.Contains([]string{"elf-core", "mapped-ram", "cloud-hypervisor"}, opt.format):
		if cmd.Flags().Changed("compress") {
			return usagef("--compress is for archives")
		}
		return runExportDump(cmd, a, opt, id, file)
	case file == "-" && a.json:
		return usagef("stdout cannot take both the archive and --json")
	}
	return a.read(cmd.Context(), func(m *arcstore.Manager) error {
		p := a.progress()
		defer p.close()
		var report *arcstore.RestoreReport
		write := func(w io.Writer) (err error) {
			packed, err := compressor(w, opt.compress)
			if err != nil {
				return err
			}
			report, err = m.ExportArchive(cmd.Context(), id, packed, &arcstore.RestoreOptions{Progress: p.report()})
			return errors.Join(err, packed.Close())
		}
		if file == "-" {
			return write(a.stdout)
		}
		err := writeNew(file, opt.force, write)
		p.close()
		if errors.Is(err, fs.ErrExist) && !opt.force {
			return hinted{fmt.Errorf("%s: %w", file, arcstore.ErrExists), "--force replaces it"}
		}
		if err != nil {
			return err
		}
		return a.result(report, func(w io.Writer) {
			f := facts{}
			f.add("exported", "%s", report.Snapshot)
			f.add("to", "%s", file)
			f.add("streams", "%s", count(report.Streams))
			f.add("size", "%s", size(report.Bytes))
			f.add("took", "%s", took(report.Duration))
			f.print(w)
		})
	})
}

func runExportArcbox(cmd *cobra.Command, a *app, id, dir string) error {
	return a.read(cmd.Context(), func(m *arcstore.Manager) error {
		p := a.progress()
		defer p.close()
		report, err := m.ExportArcbox(cmd.Context(), id, dir, &arcstore.RestoreOptions{Progress: p.report()})
		p.close()
		if err != nil {
			return err
		}
		if report.Foreign {
			a.note("arcbox-snapshot finds the memory there, and no state of vCPUs and devices")
		}
		return a.result(report, func(w io.Writer) {
			f := facts{}
			f.add("exported", "%s", report.Snapshot)
			f.add("to", "%s", report.Dir)
			f.add("size", "%s", size(report.Bytes))
			f.add("took", "%s", took(report.Duration))
			f.print(w)
		})
	})
}

func runExportDump(cmd *cobra.Command, a *app, opt exportOptions, id, name string) error {
	if name == "-" {
		return usagef("--format %s writes a sparse file, in any order: give it a name", opt.format)
	}
	return a.read(cmd.Context(), func(m *arcstore.Manager) (err error) {
		p := a.progress()
		defer p.close()
		var report *arcstore.DumpReport
		ro := &arcstore.RestoreOptions{Progress: p.report()}
		if opt.format == "cloud-hypervisor" {
			report, err = m.ExportCloudHypervisor(cmd.Context(), id, name, ro)
		} else {
			err = writeNew(name, opt.force, func(w io.Writer) (err error) {
				f := w.(*os.File)
				if report, err = m.ExportDump(cmd.Context(), id, opt.format, f, ro); err != nil {
					return err
				}
				return f.Truncate(report.Bytes)
			})
		}
		p.close()
		if errors.Is(err, fs.ErrExist) && !opt.force {
			return hinted{fmt.Errorf("%s: %w", name, arcstore.ErrExists), "--force replaces it"}
		}
		if err != nil {
			return err
		}
		return a.result(report, func(w io.Writer) {
			f := facts{}
			f.add("exported", "%s", report.Snapshot)
			f.add("to", "%s", name)
			f.add("size", "%s", size(report.Bytes))
			f.add("took", "%s", took(report.Duration))
			f.print(w)
		})
	})
}

// writeNew writes a file that appears under its name when it is complete. Without force, the name must be
// free; with it, a regular file is replaced, and nothing else, such as a device.
func writeNew(name string, force bool, write func(io.Writer) error) (err error) {
	switch info, err := os.Lstat(name); {
	case err == nil && !info.Mode().IsRegular():
		return hinted{fmt.Errorf("%s is no regular file, and only those are replaced", name), "- writes to stdout"}
	case err == nil && !force:
		return &fs.PathError{Op: "write", Path: name, Err: fs.ErrExist}
	}
	partial := name + ".partial"
	if info, err := os.Lstat(partial); err == nil && info.Mode().IsRegular() {
		if err := os.Remove(partial); err != nil { // of one that was killed
			return err
		}
	}
	f, err := os.OpenFile(partial, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := f.Close(); err == nil {
			err = cerr
		}
		if err == nil {
			err = os.Rename(partial, name)
		}
		if err != nil {
			os.Remove(partial)
		}
	}()
	return write(f)
}

// compressor returns a writer that compresses what goes to w, and that does not close w.
func compressor(w io.Writer, how string) (io.WriteCloser, error) {
	switch how {
	case "gzip":
		return gzip.NewWriter(w), nil
	case "zstd":
		return zstd.NewWriter(w)
	}
	return unclosed{w}, nil
}

// unclosed is a writer that somebody else closes.
type unclosed struct{ io.Writer }

func (unclosed) Close() error { return nil }
