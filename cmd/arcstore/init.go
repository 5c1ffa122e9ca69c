package main

import (
	"context"
	"errors"
	"io"

	"github.com/spf13/cobra"

	"github.com/arcboxlabs/arcstore"
)

type initOptions struct {
	chunkSize   sizeFlag
	compression string
	encrypt     bool
	fromRemote  string
	remote      arcstore.RemoteConfig
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
changed later.

With --encrypt, what the store holds is encrypted before it is written, and before it is
pushed anywhere: with the key file that --key-file names, which is made if it is not there,
or a passphrase, from ` + passphraseVariable + ` or asked for. Without one of its keys, nothing
in the store can be read, by nobody. remote/SECURITY.md says what it protects.

With --from-remote, the store is made to fit what is in a bucket, with its key if that is
encrypted, and the bucket becomes its remote "origin": pull and push work at once.`,
		Example: `  arcstore --store /var/lib/arcstore init
  arcstore --store /var/lib/arcstore init --chunk-size 64KiB --compression zstd
  arcstore --store /var/lib/arcstore init --encrypt --key-file /root/arcstore.key
  arcstore --store /var/lib/arcstore init --from-remote s3://backups/fleet`,
		Args:              takes(0, 0, "no arguments"),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if opt.fromRemote != "" {
				for _, name := range []string{"chunk-size", "compression", "encrypt"} {
					if cmd.Flags().Changed(name) {
						return usagef("--%s goes without --from-remote: the bucket says what it is", name)
					}
				}
				return runInitFromRemote(cmd.Context(), a, opt)
			}
			for _, name := range []string{"endpoint", "region", "credentials"} {
				if cmd.Flags().Changed(name) {
					return usagef("--%s goes with --from-remote", name)
				}
			}
			if cmd.Flags().Changed("key-file") && !opt.encrypt {
				return usagef("--key-file goes with --encrypt: a store that is made without stays readable by everybody")
			}
			return runInit(cmd.Context(), a, opt)
		},
	}
	cmd.Flags().Var(&opt.chunkSize, "chunk-size", "size of the chunks: a power of two from 4KiB to 2MiB")
	cmd.Flags().StringVar(&opt.compression, "compression", codecs[0], "compression of chunks: lz4 (fast) or zstd (small)")
	cmd.Flags().BoolVar(&opt.encrypt, "encrypt", false, "encrypt what the store holds")
	cmd.Flags().StringVar(&opt.fromRemote, "from-remote", "", "make the store to fit the bucket at an s3:// `URL`")
	remoteFlags(cmd, &opt.remote)
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
	opts := &arcstore.InitOptions{ChunkSize: int(opt.chunkSize), Compression: opt.compression}
	if opt.encrypt {
		if opts.Secret, err = a.newSecret(ctx, a.keyFile, passphraseVariable); err != nil {
			return err
		}
		a.answered = opts.Secret
	}
	if err := arcstore.Init(dir, opts); err != nil {
		return err
	}
	return a.made(ctx, dir)
}

func runInitFromRemote(ctx context.Context, a *app, opt initOptions) error {
	dir, err := a.directory()
	if err != nil {
		return err
	}
	opt.remote.Name, opt.remote.URL = "origin", opt.fromRemote
	err = arcstore.InitFromRemote(ctx, dir, opt.remote, a.secret(ctx))
	if errors.Is(err, arcstore.ErrNotFound) {
		return hinted{err, "push to it first, from a store that has it as a remote"}
	}
	if err != nil {
		return err
	}
	return a.made(ctx, dir)
}

// made tells what was made.
func (a *app) made(ctx context.Context, dir string) error {
	// Opening it proves that it can be used, and tells what it has become.
	return a.read(ctx, func(m *arcstore.Manager) error {
		made := struct {
			Dir         string `json:"dir"`
			ChunkSize   int    `json:"chunk_size"`
			Compression string `json:"compression"`
			Encrypted   bool   `json:"encrypted"`
		}{dir, m.ChunkSize(), m.Compression(), m.Encrypted()}
		return a.result(made, func(w io.Writer) {
			f := facts{}
			f.add("store", "%s", made.Dir)
			f.add("chunk size", "%s", size(int64(made.ChunkSize)))
			f.add("compression", "%s", made.Compression)
			if made.Encrypted {
				f.add("encrypted", "with AES-256-GCM")
			}
			f.print(w)
		})
	})
}
