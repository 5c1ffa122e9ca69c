package restore

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"time"

	"github.com/arcboxlabs/arcstore/manifest"
)

// ArchiveOptions are the choices of Archive.
type ArchiveOptions struct {
	ChunkSize int
	// ID and Created are the snapshot's. An archive that is made anew names
	// its container by the ID where the snapshot has no name of it.
	ID      string
	Created time.Time
	// Progress is told the bytes done.
	Progress func(done, total int64)
}

// Archive writes a checkpoint as a tar archive, as podman exports it: one
// that came as an archive byte for byte as that was, uncompressed, and any other made anew.
func Archive(ctx context.Context, t *manifest.Table, src Source, about *manifest.Checkpoint, w io.Writer, opts ArchiveOptions) (Restored, error) {
	a := &archiver{ctx: ctx, t: t, src: src, opts: opts, w: w}
	for _, s := range t.Streams() {
		a.total += s.Size
	}
	var err error
	if _, lookup := t.Stream(manifest.ArchiveStream); lookup == nil {
		err = a.again()
	} else if errors.Is(lookup, manifest.ErrNotFound) {
		err = a.anew(about)
	} else {
		err = lookup
	}
	if err != nil {
		err = fmt.Errorf("restore: archive: %w", err)
	}
	return a.done, err
}

// archiver writes an archive.
type archiver struct {
	ctx      context.Context
	t        *manifest.Table
	src      Source
	opts     ArchiveOptions
	w        io.Writer
	done     Restored
	total    int64
	progress int64
}

// copy writes a stream to w.
func (a *archiver) copy(s *manifest.StreamTable, w io.Writer) error {
	n, err := Sequential(a.ctx, s, a.src, w, Options{ChunkSize: a.opts.ChunkSize, Progress: func(n int64) {
		a.progress += n
		if a.opts.Progress != nil {
			a.opts.Progress(a.progress, a.total)
		}
	}})
	a.done.Streams++
	a.done.Size += s.Size()
	a.done.Data += n
	return err
}

// again writes the archive that the snapshot was taken of.
func (a *archiver) again() error {
	s, err := a.t.Stream(manifest.ArchiveStream)
	if err != nil {
		return err
	}
	if s.Size() > manifest.MaxArchiveSize {
		return &manifest.CorruptError{File: manifest.ArchiveStream, Why: "it is too large"}
	}
	b := make([]byte, s.Size())
	if _, err := NewReader(s, a.src, a.opts.ChunkSize).ReadAt(b, 0); err != nil {
		return err
	}
	archive, err := manifest.DecodeArchive(b)
	if err != nil {
		return err
	}
	restTable, err := a.t.Stream(manifest.ArchiveRestStream)
	if err != nil {
		return err
	}
	if restTable.Size() != archive.Rest() {
		return &manifest.CorruptError{File: manifest.ArchiveStream, Why: "it does not fit " + manifest.ArchiveRestStream}
	}
	rest := io.NewSectionReader(NewReader(restTable, a.src, a.opts.ChunkSize), 0, restTable.Size())
	at := int64(0)
	for _, m := range archive.Members {
		if _, err := io.CopyN(a.w, rest, m.Offset-at); err != nil {
			return err
		}
		s, err := a.t.Stream(m.Stream)
		if err != nil {
			return err
		}
		if s.Size() != m.Size {
			return &manifest.CorruptError{File: manifest.ArchiveStream, Why: "it does not fit " + m.Stream}
		}
		if err := a.copy(s, a.w); err != nil {
			return fmt.Errorf("%s: %w", m.Stream, err)
		}
		at = m.Offset + m.Size
	}
	_, err = io.CopyN(a.w, rest, archive.Size-at)
	return err
}

// anew writes an archive with the members that podman's importer and
// checkpointctl look for (its lib/metadata.go has their names and fields).
func (a *archiver) anew(about *manifest.Checkpoint) error {
	name := about.Name
	if name == "" {
		name = "arcstore-" + a.opts.ID[:min(12, len(a.opts.ID))]
	}
	created := a.opts.Created.UTC().Truncate(time.Second)
	config := map[string]any{
		"id": a.containerID(), "name": name, "rootfsImageName": about.Image, "runtime": "runc",
		"createdTime": created, "checkpointedTime": created, "restoredTime": time.Time{}, "restored": false,
	}
	annotations := map[string]string{
		"io.container.manager":                   "libpod",
		"org.criu.checkpoint.container.name":     name,
		"org.criu.checkpoint.engine.name":        about.Engine,
		"org.criu.checkpoint.rootfsImageName":    about.Image,
		"org.criu.checkpoint.criu.version":       about.CRIU,
		"io.github.arcboxlabs.arcstore.snapshot": a.opts.ID,
	}
	for key, value := range annotations {
		if value == "" {
			delete(annotations, key)
		}
	}
	spec := map[string]any{"ociVersion": "1.0.2", "annotations": annotations}
	w := tar.NewWriter(a.w)
	header := func(name string, kind byte, mode, size int64) error {
		return w.WriteHeader(&tar.Header{Typeflag: kind, Name: name, Mode: mode, Size: size, ModTime: created, Format: tar.FormatPAX})
	}
	for _, dump := range []struct {
		name    string
		content any
	}{{"config.dump", config}, {"spec.dump", spec}} {
		b, err := json.MarshalIndent(dump.content, "", "  ")
		if err == nil {
			err = header(dump.name, tar.TypeReg, 0o600, int64(len(b)))
		}
		if err == nil {
			_, err = w.Write(b)
		}
		if err != nil {
			return err
		}
	}
	const dir = "checkpoint/"
	if err := header(dir, tar.TypeDir, 0o700, 0); err != nil {
		return err
	}
	made := map[string]bool{dir: true}
	for _, s := range a.t.Streams() {
		image, ok := strings.CutPrefix(s.Name, manifest.CRIUPrefix)
		if !ok {
			continue
		}
		if sub := dir + path.Dir(image) + "/"; path.Dir(image) != "." && !made[sub] {
			made[sub] = true
			if err := header(sub, tar.TypeDir, 0o700, 0); err != nil {
				return err
			}
		}
		table, err := a.t.Stream(s.Name)
		if err == nil {
			err = header(dir+image, tar.TypeReg, 0o600, s.Size)
		}
		if err == nil {
			err = a.copy(table, w)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", s.Name, err)
		}
	}
	return w.Close()
}

// containerID returns an ID in the form of podman's: 64 hexadecimal digits, made of the snapshot's.
func (a *archiver) containerID() string {
	return fmt.Sprintf("%064x", a.opts.ID)[:64]
}
