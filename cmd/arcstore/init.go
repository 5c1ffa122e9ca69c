package main

import (
	"context"
	"io"

	"github.com/spf13/cobra"

	"github.com/arcboxlabs/arcstore"
)

type initOptions struct {
	chunkSize   sizeFlag
	compression string
}

func newInitCommand(a *app) *cobra.Command {
	opt := initOptions{chunkSize: 4 << 10}
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Make a store",
		Long: `Init makes a store in the directory that --store names, which must be empty or
not exist yet.

The chunk size is what deduplication and increments go by, and stays for good:
4KiB, one page, finds the most; larger ones cost less per byte. Compression can be
changed later.`,
		Example: `  arcstore --store /var/lib/arcstore init
  arcstore --store /var/lib/arcstore init --chunk-size 64KiB --compression zstd`,
		Args:              takes(0, 0, "no arguments"),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runInit(cmd.Context(), a, opt)
		},
	}
	cmd.Flags().Var(&opt.chunkSize, "chunk-size", "size of the chunks: a power of two from 4KiB to 2MiB")
	cmd.Flags().StringVar(&opt.compression, "compression", codecs[0], "compression of chunks: lz4 (fast) or zstd (small)")
	must(cmd.RegisterFlagCompletionFunc("chunk-size", cobra.FixedCompletions([]cobra.Completion{"4KiB", "16KiB", "64KiB", "2MiB"}, cobra.ShellCompDirectiveNoFileComp)))
	must(cmd.RegisterFlagCompletionFunc("compression", cobra.FixedCompletions(codecs, cobra.ShellCompDirectiveNoFileComp)))
	return exits(cmd, exitFailed, exitUsage)
}

func runInit(ctx context.Context, a *app, opt initOptions) error {
	dir, err := a.directory()
	if err != nil {
		return err
	}
	if opt.chunkSize < 4<<10 || opt.chunkSize > 2<<20 || opt.chunkSize&(opt.chunkSize-1) != 0 {
		return usagef("--chunk-size %s is not a power of two from 4KiB to 2MiB", &opt.chunkSize)
	}
	if err := checkCodec(opt.compression); err != nil {
		return err
	}
	if err := arcstore.Init(dir, &arcstore.InitOptions{ChunkSize: int(opt.chunkSize), Compression: opt.compression}); err != nil {
		return err
	}
	// Opening it proves that it can be used, and tells what it has become.
	return a.read(ctx, func(m *arcstore.Manager) error {
		made := struct {
			Dir         string `json:"dir"`
			ChunkSize   int    `json:"chunk_size"`
			Compression string `json:"compression"`
		}{dir, m.ChunkSize(), m.Compression()}
		return a.result(made, func(w io.Writer) {
			f := facts{}
			f.add("store", "%s", made.Dir)
			f.add("chunk size", "%s", size(int64(made.ChunkSize)))
			f.add("compression", "%s", made.Compression)
			f.print(w)
		})
	})
}
