package arcstore_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/arcboxlabs/arcstore"
	"github.com/arcboxlabs/arcstore/bench/processes"
)

// dumped ends a process by CRIU alone, and returns the directory of its images.
func dumped(t *testing.T, p *processes.Process) string {
	t.Helper()
	dir := t.TempDir()
	out, err := exec.Command(criuPath(t), "dump", "--tree", strconv.Itoa(p.PID), "--images-dir", dir).CombinedOutput()
	if err != nil {
		t.Fatalf("criu dump: %v\n%s", err, out)
	}
	return dir
}

// podmanArchive makes an archive as podman does, of a directory of images.
func podmanArchive(t *testing.T, dir string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	add := func(h *tar.Header, content []byte) {
		t.Helper()
		h.Size, h.Mode, h.ModTime = int64(len(content)), 0o600, time.Unix(1790000000, 0)
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(content); err != nil {
			t.Fatal(err)
		}
	}
	add(&tar.Header{Typeflag: tar.TypeReg, Name: "spec.dump"}, []byte(`{"ociVersion": "1.1.0", "annotations": {"io.container.manager": "libpod"}}`))
	add(&tar.Header{Typeflag: tar.TypeReg, Name: "config.dump"}, []byte(`{"id": "0815", "name": "objects", "rootfsImageName": "localhost/objects:latest"}`))
	add(&tar.Header{Typeflag: tar.TypeDir, Name: "checkpoint/"}, nil)
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := os.ReadFile(name)
		if err == nil {
			add(&tar.Header{Typeflag: tar.TypeReg, Name: "checkpoint/" + d.Name()}, content)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	add(&tar.Header{Typeflag: tar.TypeReg, Name: "rootfs-diff.tar"}, bytes.Repeat([]byte("diff"), 3000))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// What CRIU and podman wrote comes back as the same bytes, and to life.
func TestCheckpointImages(t *testing.T) {
	c := newCheckpoints(t)
	ctx := t.Context()
	p, err := processes.Objects(ctx, t.TempDir(), 8)
	needProcesses(t, err)
	defer p.Stop()
	dir := dumped(t, p)
	fromDir := c.take(t, arcstore.Container{Images: dir})

	archive := podmanArchive(t, dir)
	packed := filepath.Join(t.TempDir(), "objects.tar.gz")
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(archive); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(packed, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	fromArchive := c.take(t, arcstore.Container{Images: packed})
	if fromArchive.Cost.BytesNew > fromDir.Cost.BytesNew/50 {
		t.Errorf("the same images in an archive took %d bytes more, the first time %d", fromArchive.Cost.BytesNew, fromDir.Cost.BytesNew)
	}
	if about := c.about(t, fromArchive.ID); about.Engine != "podman" || about.Name != "objects" || about.Image != "localhost/objects:latest" || len(about.Processes) != 1 {
		t.Errorf("captured %+v", about)
	}

	var exported bytes.Buffer
	if _, err := c.m.ExportArchive(ctx, fromArchive.ID, &exported, nil); err != nil || !bytes.Equal(exported.Bytes(), archive) {
		t.Errorf("%d bytes exported, other than the %d of the archive: %v", exported.Len(), len(archive), err)
	}
	for _, s := range []*arcstore.Snapshot{fromDir, fromArchive} {
		out := filepath.Join(t.TempDir(), "out")
		if _, err := c.m.Restore(ctx, s.ID, out, nil); err != nil {
			t.Fatal(err)
		}
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			want, err := os.ReadFile(filepath.Join(dir, e.Name()))
			if err != nil {
				t.Fatal(err)
			}
			if got, err := os.ReadFile(filepath.Join(out, "criu", e.Name())); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s: %d bytes restored, other than the %d: %v", e.Name(), len(got), len(want), err)
			}
		}
	}
	c.run(t, fromArchive.ID, nil)
	if err := p.GoesOn(ctx); err != nil {
		t.Fatal(err)
	}
	if err := p.Check(ctx, 0); err != nil {
		t.Error(err)
	}
}

// What is captured here, others can read.
func TestCheckpointExport(t *testing.T) {
	c := newCheckpoints(t)
	ctx := t.Context()
	p, err := processes.Pipes(ctx, t.TempDir())
	needProcesses(t, err)
	defer p.Stop()
	s := c.take(t, arcstore.Container{PID: p.PID, LeaveRunning: true})
	name := filepath.Join(t.TempDir(), "pipes.tar")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := c.m.ExportArchive(ctx, s.ID, f, nil); err != nil {
		t.Fatal(err)
	}
	again := c.take(t, arcstore.Container{Images: name})
	if a, b := c.about(t, s.ID), c.about(t, again.ID); len(b.Processes) != 3 || !slices.Equal(a.Processes, b.Processes) || !slices.Equal(a.Files, b.Files) {
		t.Errorf("captured %+v, and from its export %+v", a, b)
	}

	program := checkpointctl(ctx, t)
	for _, args := range [][]string{{"show", name}, {"inspect", "--ps-tree", name}} {
		out, err := exec.CommandContext(ctx, program, args...).CombinedOutput()
		if err != nil {
			t.Fatalf("checkpointctl %s: %v\n%s", args[0], err, out)
		}
		if !strings.Contains(string(out), "arcstore-"+s.ID[:12]) || args[0] == "inspect" && strings.Count(string(out), "python3") != 3 {
			t.Errorf("checkpointctl %s does not see it:\n%s", args[0], out)
		}
	}
}

// checkpointctl returns the program of that name, which it installs in the user's cache.
func checkpointctl(ctx context.Context, t *testing.T) string {
	t.Helper()
	const version = "v1.6.0"
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(cache, "arcstore", "checkpointctl-"+version)
	name := filepath.Join(dir, "checkpointctl")
	if _, err := os.Stat(name); err == nil {
		return name
	}
	install := exec.CommandContext(ctx, "go", "install", "github.com/checkpoint-restore/checkpointctl@"+version)
	install.Env = append(os.Environ(), "GOBIN="+dir)
	if out, err := install.CombinedOutput(); err != nil {
		needProcesses(t, &processes.Missing{Part: "criu", Text: "checkpointctl could not be installed: " + string(out)})
	}
	return name
}
