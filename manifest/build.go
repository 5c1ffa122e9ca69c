package manifest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/arcboxlabs/arcstore/chunker"
	"github.com/arcboxlabs/arcstore/store/disk"
)

// chainSlack is how many bytes of differences are worth keeping whatever the
// size of what they differ from.
const chainSlack = 64 << 10

// Builder writes one manifest, leaf by leaf: memory stays bounded whatever the
// streams' sizes. One goroutine uses it.
type Builder struct {
	files  *Files
	f      disk.File
	w      *bufio.Writer
	offset int64
	sealed []byte // the leaf that is written
	root   root
	size   int64          // of the root's encoding
	parent *Table         // whose entries can be inherited; nil for none
	names  map[string]use // of the streams, and of the directories that they imply
	open   *StreamBuilder
	done   bool
}

// use is what a name stands for.
type use uint8

const (
	unused use = iota
	asStream
	asDir
)

// Build begins a manifest of streams in chunks of chunkSize bytes, as the
// difference to parent, or on its own where parent is nil or has grown too
// long a chain. parent must stay open until Commit. Abort must be called,
// unless Commit is.
func (f *Files) Build(ctx context.Context, chunkSize int, parent *Table) (*Builder, error) {
	if err := chunker.CheckChunkSize(chunkSize); err != nil {
		return nil, fmt.Errorf("manifest: %w: %w", ErrInvalid, err)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	b := &Builder{files: f, root: root{chunkSize: chunkSize}, size: rootFixed, parent: parent, names: make(map[string]use)}
	if parent != nil {
		p := parent.layers[0].root
		if p.chunkSize != chunkSize {
			return nil, fmt.Errorf("manifest: %w parent: its chunk size is %d, not %d", ErrInvalid, p.chunkSize, chunkSize)
		}
		if p.depth < MaxDepth && p.chainBytes <= max(p.baseBytes, chainSlack) {
			b.root.depth, b.root.parent = p.depth+1, parent.Digest()
			b.root.chainBytes, b.root.baseBytes = p.chainBytes, p.baseBytes
		}
	}
	opened, err := disk.CreateIn(f.disk, f.dir)
	if err != nil {
		return nil, fmt.Errorf("manifest: build: %w", err)
	}
	b.f = opened
	b.w = bufio.NewWriterSize(opened, 256<<10)
	if err := b.write(encodeHeader()); err != nil {
		b.Abort()
		return nil, err
	}
	return b, nil
}

func (b *Builder) write(p []byte) error {
	b.offset += int64(len(p))
	if _, err := b.w.Write(p); err != nil {
		return fmt.Errorf("manifest: write: %w", err)
	}
	return nil
}

// grow adds to the root's size. What a decoder would refuse is an error here.
func (b *Builder) grow(n int) error {
	if b.size += int64(n); b.size > maxRoot {
		return fmt.Errorf("manifest: %w manifest: its streams hold too much: its root would have more than %d bytes", ErrInvalid, maxRoot)
	}
	return nil
}

// Stream begins the next stream, of size bytes. The one before must be
// complete. The streams' order does not matter.
func (b *Builder) Stream(name string, size int64) (*StreamBuilder, error) {
	if b.done {
		return nil, errBuilderDone
	}
	if err := ValidName(name); err != nil {
		return nil, err
	}
	if size < 0 || size > maxStreamSize || len(b.root.streams) >= maxStreams {
		return nil, fmt.Errorf("manifest: %w stream %s of %d bytes: too large, or one of too many", ErrInvalid, name, size)
	}
	if err := b.closeStream(); err != nil {
		return nil, err
	}
	if err := b.addName(name); err != nil {
		return nil, err
	}
	if err := b.grow(streamFixed + len(name)); err != nil {
		return nil, err
	}
	s := &StreamBuilder{b: b, s: rootStream{Stream: Stream{name, size}}, total: chunks(size, b.root.chunkSize)}
	if b.parent != nil {
		base, err := b.parent.Stream(name)
		if err != nil && !errors.Is(err, ErrNotFound) {
			return nil, err
		}
		if err == nil {
			s.base = base
			s.s.based = b.root.depth > 0
		}
	}
	s.enter(0)
	b.open = s
	return s, nil
}

// addName takes a stream's name: it must be new, and no stream both a file and a directory.
func (b *Builder) addName(name string) error {
	switch b.names[name] {
	case asStream:
		return fmt.Errorf("manifest: %w stream name %q: there is one of that name", ErrInvalid, name)
	case asDir:
		return fmt.Errorf("manifest: %w stream name %q: it is a directory of another stream", ErrInvalid, name)
	}
	for dir := range dirsOf(name) {
		if b.names[dir] == asStream {
			return fmt.Errorf("manifest: %w stream name %q: it makes a directory of %q, which is a stream too", ErrInvalid, name, dir)
		}
	}
	for dir := range dirsOf(name) {
		b.names[dir] = asDir
	}
	b.names[name] = asStream
	return nil
}

// closeStream ends the stream at hand.
func (b *Builder) closeStream() error {
	s := b.open
	if s == nil {
		return nil
	}
	if s.next != s.total {
		return fmt.Errorf("manifest: stream %s has only %d of its %d chunks", s.s.Name, s.next, s.total)
	}
	if err := s.flush(); err != nil {
		return err
	}
	b.root.streams = append(b.root.streams, s.s)
	b.open = nil
	return nil
}

var errBuilderDone = errors.New("manifest: the builder was committed or aborted")

// Commit completes the manifest and makes it durable under its digest. A
// builder that cannot commit can only be aborted.
func (b *Builder) Commit(ctx context.Context) (Digest, error) {
	if b.done {
		return Digest{}, errBuilderDone
	}
	if err := b.closeStream(); err != nil {
		return Digest{}, err
	}
	if err := ctx.Err(); err != nil {
		return Digest{}, err
	}
	r := &b.root
	if own := b.offset - headerSize; r.depth > 0 {
		r.chainBytes += own
	} else {
		r.baseBytes = own
	}
	slices.SortFunc(r.streams, func(x, y rootStream) int { return strings.Compare(x.Name, y.Name) })
	encoded := b.files.seal.Seal(nil, r.encode(), rootContext)
	digest := digestOf(encoded)
	footer := encodeFooter(b.offset, int64(len(encoded)))
	if err := b.write(encoded); err != nil {
		return Digest{}, err
	}
	if err := b.write(footer); err != nil {
		return Digest{}, err
	}
	if err := b.w.Flush(); err != nil {
		return Digest{}, fmt.Errorf("manifest: write: %w", err)
	}
	b.done = true
	if err := disk.MoveInto(b.files.disk, b.f, b.files.path(digest), true); err != nil {
		return Digest{}, fmt.Errorf("manifest: commit: %w", err)
	}
	return digest, nil
}

// Abort drops the manifest, unless it was committed.
func (b *Builder) Abort() {
	if !b.done {
		b.done = true
		b.f.Close()
		b.files.disk.Remove(b.f.Name())
	}
}
