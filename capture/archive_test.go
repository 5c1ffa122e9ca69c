package capture

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/pstree"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"google.golang.org/protobuf/proto"

	"github.com/arcboxlabs/arcstore/chunker"
	"github.com/arcboxlabs/arcstore/manifest"
)

// tarFile is a member of a test's archive.
type tarFile struct {
	tar.Header
	content string
}

func regular(name, content string) tarFile {
	return tarFile{tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o600, Size: int64(len(content))}, content}
}

// inventoryFile and treeFile are the images without which there is no checkpoint: of one process.
var (
	inventoryFile = image(0x58313116, nil)
	treeFile      = image(0x50273030, &pstree.PstreeEntry{Pid: proto.Uint32(7), Ppid: proto.Uint32(0), Pgid: proto.Uint32(7), Sid: proto.Uint32(7), Threads: []uint32{7}})
)

// image is an image file of CRIU's with one record, or with none.
func image(magic uint32, record proto.Message) string {
	b := binary.LittleEndian.AppendUint32(nil, 0x54564319)
	if magic == 0x58313116 { // the inventory has no common magic
		b = nil
	}
	b = binary.LittleEndian.AppendUint32(b, magic)
	if record != nil {
		encoded, err := proto.Marshal(record)
		if err != nil {
			panic(err)
		}
		b = binary.LittleEndian.AppendUint32(b, uint32(len(encoded)))
		b = append(b, encoded...)
	}
	return string(b)
}

// checkpointFiles are the members of an archive as podman makes it.
func checkpointFiles() []tarFile {
	long := strings.Repeat("long/", 30) + "name"
	return []tarFile{
		regular("config.dump", `{"id": "4711", "name": "web", "rootfsImageName": "docker.io/library/redis:7"}`),
		regular("spec.dump", `{"annotations": {"io.container.manager": "libpod", "org.criu.checkpoint.criu.version": "4.2.1"}}`),
		{tar.Header{Typeflag: tar.TypeDir, Name: "checkpoint/", Mode: 0o700}, ""},
		regular("checkpoint/inventory.img", inventoryFile),
		regular("checkpoint/pstree.img", treeFile),
		regular("checkpoint/pages-1.img", strings.Repeat("a page of memory", 1024)),
		regular("empty", ""),
		regular("volumes/"+long, "data"),
		{tar.Header{Typeflag: tar.TypeSymlink, Name: "link", Linkname: "config.dump"}, ""},
		{tar.Header{Typeflag: tar.TypeLink, Name: "hard", Linkname: "config.dump"}, ""},
		{tar.Header{Typeflag: tar.TypeFifo, Name: "fifo"}, ""},
		regular("rootfs-diff.tar", strings.Repeat("x", 1000)),
	}
}

func makeTar(t testing.TB, format tar.Format, files []tarFile) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		h := f.Header
		h.Format = format
		err := w.WriteHeader(&h)
		if err == nil {
			_, err = io.WriteString(w, f.content)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// openBytes opens an archive that is made of bytes.
func openBytes(t testing.TB, b []byte) (*images, error) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "archive")
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return openArchive(context.Background(), name, t.TempDir())
}

func content(t testing.TB, src chunker.Source) string {
	t.Helper()
	b := make([]byte, src.Size())
	if err := chunker.ReadFull(src, b, 0); err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// again puts an archive together from its streams, as a restore does.
func again(t testing.TB, im *images) []byte {
	t.Helper()
	a, err := manifest.DecodeArchive([]byte(content(t, im.rest[manifest.ArchiveStream])))
	if err != nil {
		t.Fatal(err)
	}
	rest, out := content(t, im.rest[manifest.ArchiveRestStream]), ""
	for _, m := range a.Members {
		gap := m.Offset - int64(len(out))
		out, rest = out+rest[:gap], rest[gap:]
		src := im.rest[m.Stream]
		if name, ok := strings.CutPrefix(m.Stream, manifest.CRIUPrefix); ok {
			src = im.criu[name]
		}
		out += content(t, src)
	}
	return []byte(out + rest)
}

func TestArchive(t *testing.T) {
	for _, format := range []tar.Format{tar.FormatPAX, tar.FormatGNU} {
		plain := makeTar(t, format, checkpointFiles())
		for what, pack := range map[string]func(io.Writer) io.WriteCloser{
			"plain": func(w io.Writer) io.WriteCloser { return nopCloser{w} },
			"gzip":  func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) },
			"zstd": func(w io.Writer) io.WriteCloser {
				z, err := zstd.NewWriter(w)
				if err != nil {
					t.Fatal(err)
				}
				return z
			},
		} {
			var b bytes.Buffer
			w := pack(&b)
			if _, err := w.Write(plain); err != nil {
				t.Fatal(err)
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			im, err := openBytes(t, b.Bytes())
			if err != nil {
				t.Fatalf("%s %v: %v", what, format, err)
			}
			if got := again(t, im); !bytes.Equal(got, plain) {
				t.Errorf("%s %v: %d bytes come back, other than the %d", what, format, len(got), len(plain))
			}
			if got := content(t, im.criu["pages-1.img"]); got != strings.Repeat("a page of memory", 1024) {
				t.Errorf("%s %v: the pages have %d bytes", what, format, len(got))
			}
			if got := content(t, im.rest[manifest.ArchivePrefix+"rootfs-diff.tar"]); got != strings.Repeat("x", 1000) {
				t.Errorf("%s %v: rootfs-diff.tar has %d bytes", what, format, len(got))
			}
			if a := im.about; a.Engine != "podman" || a.Name != "web" || a.Image != "docker.io/library/redis:7" || a.CRIU != "4.2.1" {
				t.Errorf("%s %v: about %+v", what, format, a)
			}
			if err := im.Close(); err != nil {
				t.Error(err)
			}

			// Wherever it is cut, that is an error.
			for cut := range b.Len() {
				if what == "plain" && cut%blockSize > 1 && rand.IntN(20) > 0 {
					continue
				}
				if what == "plain" && cut >= b.Len()-blockSize {
					continue // one of the two blocks of zeros is enough
				}
				im, err := openBytes(t, b.Bytes()[:cut])
				if err == nil {
					im.Close()
					t.Fatalf("%s %v: cut to %d of %d bytes, it opens", what, format, cut, b.Len())
				}
				if !errors.Is(err, ErrArchive) {
					t.Fatalf("%s %v: cut to %d of %d bytes: %v", what, format, cut, b.Len(), err)
				}
			}
		}
	}
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

func TestArchiveRefused(t *testing.T) {
	base := checkpointFiles()
	for _, test := range []struct {
		what  string
		files []tarFile
		want  string
	}{
		{"an absolute path", append(base, regular("/etc/passwd", "x")), "lies outside of the archive"},
		{"a path above", append(base, regular("../x", "x")), "lies outside of the archive"},
		{"a path above and back", append(base, regular("a/../../x", "x")), "lies outside of the archive"},
		{"a path through its parent", append(base, regular("a/../x", "x")), "lies outside of the archive"},
		{"a link above", append(base, tarFile{tar.Header{Typeflag: tar.TypeSymlink, Name: "../x", Linkname: "y"}, ""}), "lies outside of the archive"},
		{"a member twice", append(base, regular("config.dump", "x")), "is there twice"},
		{"a member twice by another name", append(base, regular("./config.dump", "x")), "is there twice"},
		{"a link among the images", append(base, tarFile{tar.Header{Typeflag: tar.TypeSymlink, Name: "checkpoint/core-1.img", Linkname: "/etc/passwd"}, ""}), "is a link"},
		{"a device among the images", append(base, tarFile{tar.Header{Typeflag: tar.TypeChar, Name: "checkpoint/core-1.img"}, ""}), "is no regular file"},
		{"a name that is no stream's", append(base, regular("a\\b", "x")), "cannot be a stream"},
		{"no checkpoint", []tarFile{regular("config.dump", "{}")}, "no archive of a checkpoint"},
		{"nothing", nil, "no archive of a checkpoint"},
	} {
		im, err := openBytes(t, makeTar(t, tar.FormatPAX, test.files))
		if err == nil {
			im.Close()
		}
		if !errors.Is(err, ErrArchive) || !strings.Contains(fmt.Sprint(err), test.want) {
			t.Errorf("%s: %v, want %q", test.what, err, test.want)
		}
	}
	for what, text := range map[string]string{"text": strings.Repeat("no archive ", 100), "bzip2": "BZh91AY&SY", "nothing": "", "gzip": "\x1f\x8bx", "zstd": "\x28\xb5\x2f\xfdx"} {
		if im, err := openBytes(t, []byte(text)); !errors.Is(err, ErrArchive) {
			t.Errorf("%s: %v %v", what, im, err)
		}
	}
}

func FuzzArchive(f *testing.F) {
	f.Add(makeTar(f, tar.FormatPAX, checkpointFiles()))
	f.Add(makeTar(f, tar.FormatGNU, checkpointFiles()))
	f.Fuzz(func(t *testing.T, b []byte) {
		name := filepath.Join(t.TempDir(), "archive")
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
		file, err := OpenFile(name)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		im, err := readArchive(t.Context(), file)
		if err != nil {
			return
		}
		im.Closer = file
		if got := again(t, im); !bytes.Equal(got, b) {
			t.Errorf("%d bytes come back, other than the %d", len(got), len(b))
		}
	})
}

// What follows a compressed archive is not what is missing of one that is cut short.
func TestArchiveCompression(t *testing.T) {
	plain := makeTar(t, tar.FormatPAX, checkpointFiles())
	pack := func(b []byte) []byte {
		var packed bytes.Buffer
		w := gzip.NewWriter(&packed)
		if _, err := w.Write(b); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return packed.Bytes()
	}
	half := len(plain) / 2
	im, err := openBytes(t, append(pack(plain[:half]), pack(plain[half:])...))
	if err != nil {
		t.Fatalf("two parts: %v", err)
	}
	if got := again(t, im); !bytes.Equal(got, plain) {
		t.Error("two parts: other bytes come back")
	}
	im.Close()
	for text, want := range map[string]string{
		string(pack(plain)) + "junk": "something follows that gzip did not write",
		"BZh91AY&SY":                 "bunzip2",
		"\xfd7zXZ\x00\x00":           "unxz",
	} {
		if _, err := openBytes(t, []byte(text)); !errors.Is(err, ErrArchive) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}
