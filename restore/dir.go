package restore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/arcboxlabs/arcstore/manifest"
)

// ErrExists is wrapped by the error for a file that is there already.
var ErrExists = errors.New("exists already")

// partialSuffix marks a file that is not complete yet.
const partialSuffix = ".partial"

// DirOptions are the choices of a restore to files.
type DirOptions struct {
	ChunkSize int
	// Force replaces files that exist. They are replaced, not written to: who
	// has the old one open or mapped keeps it.
	Force bool
	// Stream restores just this one; "" for all.
	Stream string
	// Prefix restores just those whose names begin with it; "" for all.
	Prefix string
	// Lost, if not nil, is told what cannot be had, which becomes holes. Otherwise that is an error.
	Lost func(stream string, r Range)
	// Progress is told the bytes done, of the sum of all streams.
	Progress func(done, total int64)
}

// Restored says what was restored, in bytes.
type Restored struct {
	Streams int
	Size    int64 // holes included
	Data    int64 // written
}

// Dir restores the streams of t as sparse files under dir, each at the path
// of its name. A file appears under its name when it is complete. No name leads outside dir,
// through symbolic links either. Where it fails, what it made is removed again.
// Nothing is synced: the store still has it all.
func Dir(ctx context.Context, t *manifest.Table, src Source, dir string, opts DirOptions) (done Restored, err error) {
	var streams []manifest.Stream
	total := int64(0)
	for _, s := range t.Streams() {
		if (opts.Stream == "" || opts.Stream == s.Name) && strings.HasPrefix(s.Name, opts.Prefix) {
			streams = append(streams, s)
			total += s.Size
		}
	}
	if opts.Stream != "" && len(streams) == 0 {
		return done, fmt.Errorf("restore: %w: the snapshot has no stream %q", manifest.ErrNotFound, opts.Stream)
	}
	m, err := openDir(dir)
	if err != nil {
		return done, fmt.Errorf("restore: %w", err)
	}
	defer func() {
		if err != nil {
			m.undo()
		}
		m.root.Close()
	}()
	for _, s := range streams {
		switch info, err := m.root.Lstat(s.Name); {
		case err != nil:
		case !replaceable(info.Mode()):
			return done, fmt.Errorf("restore: %s in %s is no regular file, and only those are replaced: give another directory", s.Name, dir)
		case !opts.Force:
			return done, fmt.Errorf("restore: %s in %s: %w", s.Name, dir, ErrExists)
		}
	}
	for _, s := range streams {
		before := done.Size
		o := Options{ChunkSize: opts.ChunkSize}
		if opts.Progress != nil {
			o.Progress = func(n int64) {
				before += n
				opts.Progress(before, total)
			}
		}
		if opts.Lost != nil {
			o.Lost = func(r Range) { opts.Lost(s.Name, r) }
		}
		n, err := file(ctx, t, s, src, m, o)
		if err != nil {
			return done, fmt.Errorf("restore: %s: %w", s.Name, err)
		}
		done.Streams++
		done.Size += s.Size
		done.Data += n
	}
	return done, nil
}

// replaceable reports whether a file may be replaced: a link is, and what it leads to stays.
func replaceable(mode fs.FileMode) bool { return mode.IsRegular() || mode.Type() == fs.ModeSymlink }

// file restores one stream under the root of m.
func file(ctx context.Context, t *manifest.Table, s manifest.Stream, src Source, m *made, opts Options) (n int64, err error) {
	root := m.root
	table, err := t.Stream(s.Name)
	if err != nil {
		return 0, err
	}
	if err := m.mkdirFor(s.Name); err != nil {
		return 0, err
	}
	partial := s.Name + partialSuffix
	if err := root.Remove(partial); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, err
	}
	f, err := root.OpenFile(partial, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return 0, err
	}
	defer func() {
		if cerr := f.Close(); err == nil {
			err = cerr
		}
		_, gone := root.Lstat(s.Name)
		if err == nil {
			err = root.Rename(partial, s.Name)
		}
		switch {
		case err != nil:
			root.Remove(partial)
		case errors.Is(gone, fs.ErrNotExist):
			m.inside = append(m.inside, s.Name)
		}
	}()
	if err := f.Truncate(s.Size); err != nil {
		return 0, err
	}
	return Stream(ctx, table, src, f, opts)
}
