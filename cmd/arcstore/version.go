package main

import (
	"io"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/arcboxlabs/arcstore/store"
)

func newVersionCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:               "version",
		Short:             "Print the version",
		Example:           "  arcstore version --json",
		Args:              takes(0, 0, "no arguments"),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              func(*cobra.Command, []string) error { return runVersion(a) },
	}
	return exits(cmd, exitUsage)
}

func runVersion(a *app) error {
	v := struct {
		Version  string `json:"version"`
		Commit   string `json:"commit,omitempty"`
		Format   int    `json:"store_format"` // the newest that it reads, and what it writes
		Go       string `json:"go"`
		Platform string `json:"platform"`
	}{"unknown", "", store.FormatVersion, runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH}
	if info, ok := debug.ReadBuildInfo(); ok {
		v.Version = info.Main.Version
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				v.Commit = s.Value
			}
		}
	}
	return a.result(v, func(w io.Writer) {
		f := facts{}
		f.add("arcstore", "%s", v.Version)
		if v.Commit != "" {
			f.add("commit", "%s", v.Commit)
		}
		f.add("store format", "%d", v.Format)
		f.add("go", "%s %s", v.Go, v.Platform)
		f.print(w)
	})
}
