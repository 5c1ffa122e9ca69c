package main

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/arcboxlabs/arcstore"
)

// codecs are the compressions that can be chosen, the default first.
var codecs = []string{"lz4", "zstd"}

func checkCodec(name string) error {
	if !slices.Contains(codecs, name) {
		return usagef("there is no compression %q: choose %s", name, strings.Join(codecs, " or "))
	}
	return nil
}

func newCompressionCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "compression [lz4|zstd]",
		Short: "Print or change the compression of new data",
		Long: `Compression prints how the store compresses new data, or changes it. What is
stored already stays as it is and remains readable: each piece says how it is
compressed.`,
		Example: `  arcstore compression
  arcstore compression zstd`,
		Args:              takes(0, 1, "lz4, zstd or nothing"),
		ValidArgsFunction: atMost(1, cobra.FixedCompletions(codecs, cobra.ShellCompDirectiveNoFileComp)),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runCompression(cmd, a, args)
		},
	}
	return exits(cmd, exitFailed, exitUsage, exitInUse)
}

func runCompression(cmd *cobra.Command, a *app, args []string) error {
	show := func(codec string) error {
		return a.result(map[string]string{"compression": codec}, func(w io.Writer) { fmt.Fprintln(w, codec) })
	}
	if len(args) == 0 {
		return a.read(cmd.Context(), func(m *arcstore.Manager) error { return show(m.Compression()) })
	}
	if err := checkCodec(args[0]); err != nil {
		return err
	}
	return a.write(cmd, func(h holder) error {
		if err := h.SetCompression(cmd.Context(), args[0]); err != nil {
			return err
		}
		return show(args[0])
	})
}
