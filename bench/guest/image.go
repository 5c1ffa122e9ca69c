package guest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// A Flavour is a kind of guest: what runs in it.
type Flavour string

const (
	// Counter boots in about two seconds and prints "count N" on its console five times a second, N growing by one,
	// for ever. It needs 96 MiB.
	Counter Flavour = "counter"
	// Busy runs Redis, a Python program and SQLite on changing data that is made of real text. It needs 512 MiB and is
	// made for 1 GiB, of which about 35 % of the pages are then not zero. It counts like Counter and prints "ready", 20 to
	// 30 seconds after the boot, once its memory is filled and the work goes on at a steady rate.
	Busy Flavour = "busy"
	// Script has Python and runs the shell script /script, which Options.Files must bring. It prints "script ended with
	// N", N being the script's exit code, and powers off. Its kernel tracks changed pages (soft-dirty), and has what
	// CRIU needs of it.
	Script Flavour = "script"
)

// An Image is what a guest boots from. Its files belong to the cache: they are only read.
type Image struct {
	Kernel    string   // path of a bzImage
	Initramfs string   // path of a compressed cpio archive
	modules   []string // paths of the kernel's modules that Script loads
}

// Prepare returns the image of a flavour. The first call makes it, out of packages that it has apt-get download, into
// cacheDir (empty: [DefaultCacheDir]); later ones find it there and need neither apt-get nor the network. Calls may run at
// once, also in several processes. Where QEMU, apt-get or a package cannot be had the error is a [MissingError].
func Prepare(ctx context.Context, cacheDir string, flavour Flavour) (Image, error) {
	r, ok := recipes[flavour]
	if !ok {
		return Image{}, fmt.Errorf("guest: prepare: no flavour %q", flavour)
	}
	// An image is of no use without it, and a test should hear so before anything is downloaded.
	if err := lookProgram(qemuProgram, qemuPackage); err != nil {
		return Image{}, fmt.Errorf("guest: prepare %s: %w", flavour, err)
	}
	kernel, err := cached(ctx, cacheDir, kernelName, func(dir string) error {
		return makeKernel(ctx, dir)
	})
	if err != nil {
		return Image{}, fmt.Errorf("guest: prepare %s: %w", flavour, err)
	}
	initramfs, err := cached(ctx, cacheDir, string(flavour)+"-"+r.digest(), func(dir string) error {
		return makeInitramfs(ctx, dir, r)
	})
	if err != nil {
		return Image{}, fmt.Errorf("guest: prepare %s: %w", flavour, err)
	}
	image := Image{
		Kernel:    filepath.Join(kernel, "vmlinuz"),
		Initramfs: filepath.Join(initramfs, "initramfs"),
	}
	if flavour == Script {
		for _, name := range modules {
			image.modules = append(image.modules, filepath.Join(kernel, name))
		}
	}
	return image, nil
}

// kernelName is the kernel's directory in the cache.
const kernelName = "kernel-2"

// modules are those of the kernel's package that a Script guest loads, in this order: with them the kernel tells CRIU of sockets.
var modules = []string{"unix_diag.ko", "netlink_diag.ko", "af_packet_diag.ko", "inet_diag.ko", "tcp_diag.ko", "udp_diag.ko", "raw_diag.ko"}

// digest identifies the recipe, so that a changed one makes a new image. The versions of the packages are not in it:
// an image stays what it is until someone empties the cache.
func (r recipe) digest() string {
	h := sha256.New()
	fmt.Fprintln(h, strings.Join(r.packages, " "))
	for _, name := range slices.Sorted(maps.Keys(r.files)) {
		content, err := rootfs.ReadFile(r.files[name])
		if err != nil {
			panic(err) // embedded: it was there when the program was built
		}
		fmt.Fprintln(h, name, len(content))
		h.Write(content)
	}
	return hex.EncodeToString(h.Sum(nil)[:6])
}

func makeKernel(ctx context.Context, dir string) error {
	name, err := kernelPackage(ctx)
	if err != nil {
		return err
	}
	deb, err := downloadPackage(ctx, dir, name)
	if err != nil {
		return err
	}
	defer os.Remove(deb)
	return copyKernel(ctx, deb, dir)
}

func makeInitramfs(ctx context.Context, dir string, r recipe) error {
	packages := filepath.Join(dir, "packages")
	if err := os.Mkdir(packages, 0o700); err != nil {
		return fmt.Errorf("initramfs: %w", err)
	}
	defer os.RemoveAll(packages)
	debs, err := downloadClosure(ctx, packages, r.packages)
	if err != nil {
		return err
	}
	f, err := os.Create(filepath.Join(dir, "initramfs"))
	if err != nil {
		return fmt.Errorf("initramfs: %w", err)
	}
	defer f.Close()
	if err := writeInitramfs(ctx, f, r, debs); err != nil {
		return fmt.Errorf("initramfs: %w", err)
	}
	return f.Close()
}
