package capture

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/arcboxlabs/arcstore/chunker"
	"github.com/arcboxlabs/arcstore/manifest"
)

// Options are the choices of a capture.
type Options struct {
	ChunkSize int
	// Hasher names the chunks; nil in a store without encryption.
	Hasher *chunker.Hasher
	// Parent is the page tables of the parent snapshot; nil for none.
	Parent *manifest.Table
	// ReadParent returns a small stream of Parent, nil where it has none; it may be nil.
	ReadParent func(ctx context.Context, stream string) ([]byte, error)
	// Dirty says which pages of the memory may differ from Parent's; nil for all.
	Dirty chunker.Bitmap
	// Ahead is the memory as Parent has it, if it was read while the guest ran; nil if not.
	Ahead *Ahead
	// CleanSample: one in so many pages that Dirty calls clean is compared
	// with the parent's all the same; 0 means DefaultCleanSample, negative none.
	CleanSample int
	// Damaged is as StreamOptions.Damaged.
	Damaged func(id chunker.ID) bool
	// Progress is told the bytes done, of the sum of all streams.
	Progress func(done, total int64)
}

// Stats says what a capture saw, in bytes.
type Stats struct {
	Size int64 // of all streams
	StreamStats
	VMM, VMMVersion string // as the VM has them
}

// stream is a named source.
type stream struct {
	name string
	src  chunker.Source
}

// sortStreams lists streams in the order of their names, which it checks.
func sortStreams(byName map[string]chunker.Source) ([]stream, error) {
	streams := make([]stream, 0, len(byName))
	for name, src := range byName {
		if err := manifest.ValidName(name); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
		}
		streams = append(streams, stream{name, src})
	}
	slices.SortFunc(streams, func(a, b stream) int { return cmp.Compare(a.name, b.name) })
	return streams, nil
}

// captureStreams captures one stream after the other: chunks go to sink, page tables to b.
func captureStreams(ctx context.Context, streams []stream, sink Sink, b *manifest.Builder, opts Options) (Stats, error) {
	var stats Stats
	for _, s := range streams {
		stats.Size += s.src.Size()
	}
	done := int64(0)
	for _, s := range streams {
		out, err := b.Stream(s.name, s.src.Size())
		if err != nil {
			return stats, err
		}
		so := StreamOptions{ChunkSize: opts.ChunkSize, Hasher: opts.Hasher, CleanSample: opts.CleanSample, Damaged: opts.Damaged}
		if opts.Progress != nil {
			so.Progress = func(n int64) {
				done += n
				opts.Progress(done, stats.Size)
			}
		}
		if s.name == manifest.MemoryStream {
			so.Dirty = opts.Dirty
		}
		if opts.Parent != nil {
			p, err := opts.Parent.Stream(s.name)
			if err != nil && !errors.Is(err, manifest.ErrNotFound) {
				return stats, err
			}
			if err == nil {
				so.Parent = p
			}
		}
		got, err := Stream(ctx, s.src, sink, out, so)
		stats.Scanned += got.Scanned
		stats.Inherited += got.Inherited
		stats.Healed += got.Healed
		if err != nil {
			return stats, fmt.Errorf("capture: stream %s: %w", s.name, err)
		}
	}
	return stats, nil
}

// Bytes is a source of bytes in memory.
func Bytes(b []byte) chunker.Source { return bytes.NewReader(b) }
