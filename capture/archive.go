package capture

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"github.com/arcboxlabs/arcstore/capture/criu"
	"github.com/arcboxlabs/arcstore/chunker"
	"github.com/arcboxlabs/arcstore/manifest"
)

// Directories of a checkpoint archive, as podman and Kubernetes' runtimes lay it out.
const (
	checkpointDir    = "checkpoint/"
	preCheckpointDir = "pre-checkpoint/" // what an incremental checkpoint builds on
)

// ErrArchive is wrapped by the errors for an archive that is damaged, or is none of a checkpoint.
var ErrArchive = errors.New("it cannot be read")

// openArchive opens a checkpoint archive of podman's or of Kubernetes'. Its
// members become streams that are parts of the file: nothing is copied, but a
// compressed archive is unpacked to staging first.
//
// The streams, with a description and the rest of the archive, are enough to write the same tar
// again, byte for byte. Incremental images become images that restore alone, and
// are kept as they are, too.
func openArchive(ctx context.Context, name, staging string) (*images, error) {
	f, err := openTar(ctx, name, staging)
	if err != nil {
		return nil, err
	}
	im, err := readArchive(ctx, f)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	im.Closer = f
	return im, nil
}

// tarball is a tar archive whose members are being listed.
type tarball struct {
	f       *File
	members []member
	names   map[string]bool
}

// member is a member of a tar archive that has content.
type member struct {
	name string
	section
}

// readArchive makes streams of a tar archive.
func readArchive(ctx context.Context, f *File) (*images, error) {
	t := &tarball{f: f, names: make(map[string]bool)}
	if err := t.list(ctx); err != nil {
		return nil, err
	}
	found := func(dir string) criu.Images {
		images := make(criu.Images)
		for i := range t.members {
			if name, ok := strings.CutPrefix(t.members[i].name, dir); ok && !strings.Contains(name, "/") {
				images[name] = &t.members[i].section
			}
		}
		return images
	}
	own, before := found(checkpointDir), found(preCheckpointDir)
	if own[inventoryImage] == nil {
		return nil, fmt.Errorf("%w: it is no archive of a checkpoint: it has no %s", ErrArchive, checkpointDir+inventoryImage)
	}
	incremental := false
	for _, name := range own.Pagemaps() {
		p, err := criu.ReadPagemap(own, name)
		if err != nil {
			return nil, err
		}
		incremental = incremental || p.Incremental()
	}
	flat := own
	if incremental {
		var err error
		flat, err = criu.Flatten(own, func() (criu.Images, error) {
			next := before
			before = nil // podman makes one pre-checkpoint
			if len(next) == 0 {
				next = nil
			}
			return next, nil
		})
		if err != nil {
			return nil, err
		}
	}
	im := &images{criu: flat, rest: make(map[string]chunker.Source)}
	var err error
	if im.about, err = t.about(); err != nil {
		return nil, err
	}
	return im, t.keep(im, incremental)
}

// keep adds to im the streams that make the same archive again.
func (t *tarball) keep(im *images, incremental bool) error {
	a := manifest.Archive{Size: t.f.Size()}
	rest := &gaps{f: t.f}
	end := int64(0)
	for i := range t.members {
		m := &t.members[i]
		stream := manifest.ArchivePrefix + m.name
		if name, ok := strings.CutPrefix(m.name, checkpointDir); ok && !strings.Contains(name, "/") && !incremental {
			stream = manifest.CRIUPrefix + name // which im.criu has
		} else {
			im.rest[stream] = &m.section
		}
		if err := manifest.ValidName(stream); err != nil {
			return fmt.Errorf("%w: its member %q cannot be a stream: %w", ErrArchive, m.name, err)
		}
		a.Members = append(a.Members, manifest.Member{Stream: stream, Offset: m.off, Size: m.size})
		rest.add(end, m.off)
		end = m.off + m.size
	}
	rest.add(end, a.Size)
	encoded, err := a.Encode()
	if err != nil {
		return err
	}
	im.rest[manifest.ArchiveStream] = Bytes(encoded)
	im.rest[manifest.ArchiveRestStream] = rest
	return nil
}

// list lists the members that have content.
func (t *tarball) list(ctx context.Context) error {
	if t.f.Size() < blockSize {
		return fmt.Errorf("%w: it is no tar archive", ErrArchive)
	}
	whole := io.NewSectionReader(t.f, 0, t.f.Size())
	r := tar.NewReader(whole)
	end := int64(0) // of what was read so far
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return t.checkEnd(end)
		}
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return errCut
		}
		if err != nil {
			return fmt.Errorf("%w: it is no tar archive, or a damaged one: %w", ErrArchive, err)
		}
		// The reader reads whole headers and no further.
		at, err := whole.Seek(0, io.SeekCurrent)
		if err != nil {
			return err
		}
		size := int64(0)
		if h.Typeflag == tar.TypeReg {
			size = h.Size
		}
		if size > t.f.Size()-at {
			return errCut
		}
		end = at + (size+blockSize-1)/blockSize*blockSize
		if err := t.add(h, at); err != nil {
			return err
		}
	}
}

// blockSize is what everything in a tar archive is a multiple of, in bytes.
const blockSize = 512

var errCut = fmt.Errorf("%w: the archive is cut short: copy it again", ErrArchive)

// checkEnd makes sure that the block of zeros is there that ends an archive:
// one that was cut off between two members looks whole otherwise.
func (t *tarball) checkEnd(end int64) error {
	block := make([]byte, blockSize)
	if _, err := t.f.ReadAt(block, end); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if t.f.Size()-end < blockSize || !chunker.IsZero(block) {
		return errCut
	}
	return nil
}

// add adds a member whose content begins at an offset, or refuses it.
func (t *tarball) add(h *tar.Header, at int64) error {
	refuse := func(why string) error { return fmt.Errorf("%w: its member %q %s", ErrArchive, h.Name, why) }
	name := path.Clean(h.Name)
	if path.IsAbs(name) || name == ".." || strings.HasPrefix(name, "../") || strings.Contains("/"+h.Name+"/", "/../") {
		return refuse("lies outside of the archive: an archive like that may have been made to do harm")
	}
	inImages := strings.HasPrefix(name, checkpointDir)
	switch h.Typeflag {
	case tar.TypeDir, tar.TypeXGlobalHeader:
		return nil
	case tar.TypeReg:
	case tar.TypeSymlink:
		if inImages && name != checkpointDir+parentLink {
			return refuse("is a link, where CRIU has files")
		}
		return nil
	case tar.TypeGNUSparse:
		return refuse("is stored as a sparse file: pack the archive without tar's --sparse")
	default:
		if inImages {
			return refuse("is no regular file, as CRIU's images are")
		}
		return nil
	}
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return refuse("is stored as a sparse file: pack the archive without tar's --sparse")
		}
	}
	if t.names[name] {
		return refuse("is there twice")
	}
	t.names[name] = true
	t.members = append(t.members, member{name, section{f: t.f, off: at, size: h.Size}})
	return nil
}

// openTar opens a tar archive; a compressed one is unpacked first, to a file in staging that has no name.
func openTar(ctx context.Context, name, staging string) (*File, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	unpack, err := decompressor(f)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if unpack == nil {
		return newFile(f, name)
	}
	defer f.Close()
	defer unpack.Close()
	plain, err := os.CreateTemp(staging, "archive-")
	if err != nil {
		return nil, err
	}
	if err = os.Remove(plain.Name()); err == nil {
		_, err = io.CopyBuffer(plain, &interruptible{ctx, unpack}, make([]byte, 1<<20))
	}
	if err != nil {
		plain.Close()
		return nil, fmt.Errorf("%s: unpack: %w", name, err)
	}
	return newFile(plain, name)
}

// interruptible is a reader that ends with a context.
type interruptible struct {
	ctx context.Context
	r   io.Reader
}

func (i *interruptible) Read(p []byte) (int, error) {
	if err := i.ctx.Err(); err != nil {
		return 0, err
	}
	return i.r.Read(p)
}
