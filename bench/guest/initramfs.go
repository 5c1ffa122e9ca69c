package guest

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"embed"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

//go:embed rootfs
var rootfs embed.FS

// A recipe says what an initramfs is made of.
type recipe struct {
	packages []string          // with all that they depend on
	files    map[string]string // path in the guest → file in rootfs/
}

var recipes = map[Flavour]recipe{
	Counter: {
		packages: []string{"busybox-static"},
		files:    map[string]string{"init": "rootfs/counter-init"},
	},
	Busy: {
		// usr-is-merged stands in for usrmerge; SQLite comes with Python. Git, with its Perl, makes the image the size
		// of a small server's. The last two are there for their text.
		packages: []string{"busybox-static", "usr-is-merged", "redis-server", "python3", "git", "base-files", "manpages"},
		files: map[string]string{
			"init":                     "rootfs/busy-init",
			"usr/lib/arcstore/work.py": "rootfs/work.py",
		},
	},
	Script: {
		packages: []string{"busybox-static", "usr-is-merged", "python3-minimal"},
		files:    map[string]string{"init": "rootfs/script-init"},
	},
}

// directories are those that a guest has whatever its packages bring.
var directories = []string{"dev", "proc", "run", "sys", "tmp", "usr", "usr/bin", "usr/lib", "usr/lib64", "usr/sbin", "usr/lib/arcstore"}

// merged are the directories of / that are links into /usr, as in any Debian of today.
var merged = []string{"bin", "lib", "lib64", "sbin"}

// writeInitramfs writes the compressed archive of the recipe's files and of all files of the packages.
func writeInitramfs(ctx context.Context, w io.Writer, r recipe, debs []string) error {
	compressed := gzip.NewWriter(w)
	tree := &guestTree{archive: newCPIOWriter(compressed), directories: map[string]bool{}}
	if err := tree.addBase(); err != nil {
		return err
	}
	for _, deb := range debs {
		if err := eachFile(ctx, deb, tree.addPackaged); err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(r.files)) {
		content, err := rootfs.ReadFile(r.files[name])
		if err != nil {
			return err
		}
		entry := cpioEntry{name: name, mode: modeRegular | 0o755, size: int64(len(content))}
		if err := tree.archive.add(entry, strings.NewReader(string(content))); err != nil {
			return err
		}
	}
	if err := tree.archive.close(); err != nil {
		return err
	}
	return compressed.Close()
}

// A guestTree is the root file system of a guest while it is written.
type guestTree struct {
	archive     *cpioWriter
	directories map[string]bool // those written
}

func (t *guestTree) addBase() error {
	for _, name := range directories {
		t.directories[name] = true
		if err := t.archive.add(cpioEntry{name: name, mode: modeDirectory | 0o755}, nil); err != nil {
			return err
		}
	}
	for _, name := range merged {
		if err := t.addLink(name, "usr/"+name); err != nil {
			return err
		}
	}
	// Without it the kernel starts init with no output, and an init that fails early fails silently.
	return t.archive.add(cpioEntry{name: "dev/console", mode: modeCharacter | 0o600, major: 5, minor: 1}, nil)
}

func (t *guestTree) addLink(name, target string) error {
	entry := cpioEntry{name: name, mode: modeSymlink | 0o777, size: int64(len(target))}
	return t.archive.add(entry, strings.NewReader(target))
}

// addPackaged adds a file of a package.
func (t *guestTree) addPackaged(h *tar.Header, content io.Reader) error {
	name := mergedPath(h.Name)
	entry := cpioEntry{name: name, mode: uint32(h.Mode & 0o7777), modified: h.ModTime}
	switch h.Typeflag {
	case tar.TypeDir:
		if name == "." || t.directories[name] {
			return nil
		}
		t.directories[name] = true
		entry.mode |= modeDirectory
		return t.archive.add(entry, nil)
	case tar.TypeReg:
		entry.mode |= modeRegular
		entry.size = h.Size
		return t.archive.add(entry, content)
	case tar.TypeSymlink:
		return t.addLink(name, h.Linkname)
	case tar.TypeLink:
		// cpio wants to know of further links at the first one, which has gone by. To these guests a symlink is as good.
		return t.addLink(name, "/"+mergedPath(h.Linkname))
	}
	return nil // Debian packages hold nothing else
}

// mergedPath turns a path of a package ("./bin/redis") into one of the guest ("usr/bin/redis").
func mergedPath(name string) string {
	name = strings.TrimPrefix(path.Clean("/"+name), "/")
	if name == "" {
		return "."
	}
	top, _, _ := strings.Cut(name, "/")
	for _, m := range merged {
		if top == m {
			return "usr/" + name
		}
	}
	return name
}

// copyKernel writes the kernel of a kernel package, and its modules that are needed, to dir.
func copyKernel(ctx context.Context, deb, dir string) error {
	found := 0
	err := eachFile(ctx, deb, func(h *tar.Header, content io.Reader) error {
		name := path.Base(h.Name)
		if strings.HasPrefix(name, "vmlinuz-") {
			name = "vmlinuz"
		} else if !slices.Contains(modules, name) {
			return nil
		}
		found++
		f, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		defer f.Close()
		if _, err := io.Copy(f, content); err != nil {
			return err
		}
		return f.Close()
	})
	if err == nil && found != 1+len(modules) {
		err = missingPackage(kernelMetapackage, os.ErrNotExist)
	}
	return err
}

// addFiles writes an initramfs of image's and, behind it, files of this machine: the kernel unpacks one archive after the other.
func addFiles(w io.Writer, image Image, files map[string]string) error {
	first, err := os.Open(image.Initramfs)
	if err != nil {
		return err
	}
	defer first.Close()
	n, err := io.Copy(w, first)
	if err != nil {
		return err
	}
	// Archives begin at multiples of four bytes.
	if _, err := w.Write(make([]byte, (4-n%4)%4)); err != nil {
		return err
	}
	all := maps.Clone(files)
	for i, module := range image.modules {
		all[fmt.Sprintf("modules/%02d-%s", i, filepath.Base(module))] = module
	}
	tree := &guestTree{archive: newCPIOWriter(w), directories: map[string]bool{".": true}}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if err := tree.addHostFile(strings.TrimPrefix(name, "/"), all[name]); err != nil {
			return err
		}
	}
	return tree.archive.close()
}

// addHostFile adds a file of this machine, and the directories that it lies in.
func (t *guestTree) addHostFile(name, file string) error {
	name = mergedPath(name)
	for i, c := range name {
		if c == '/' && !t.directories[name[:i]] {
			t.directories[name[:i]] = true
			if err := t.archive.add(cpioEntry{name: name[:i], mode: modeDirectory | 0o755}, nil); err != nil {
				return err
			}
		}
	}
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	return t.archive.add(cpioEntry{name: name, mode: modeRegular | 0o755, size: info.Size()}, f)
}
