package guest

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// kernelMetapackage depends on the newest kernel that is built for virtual machines.
const kernelMetapackage = "linux-image-cloud-amd64"

// kernelPackage returns the name of the package that holds the kernel itself.
func kernelPackage(ctx context.Context) (string, error) {
	out, err := aptCommand(ctx, "", kernelMetapackage, "apt-cache", "depends", kernelMetapackage)
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(out)) {
		name, ok := strings.CutPrefix(strings.TrimSpace(line), "Depends: ")
		if ok && strings.HasPrefix(name, "linux-image-") {
			return name, nil
		}
	}
	return "", missingPackage(kernelMetapackage, errors.New("it names no kernel"))
}

// downloadPackage puts the .deb of one package into dir and returns its path.
func downloadPackage(ctx context.Context, dir, name string) (string, error) {
	_, err := aptCommand(ctx, dir, name, "apt-get", "download", "-q", "-o", "APT::Sandbox::User=root", name)
	if err != nil {
		return "", err
	}
	debs, err := filepath.Glob(filepath.Join(dir, name+"_*.deb"))
	if err != nil || len(debs) != 1 {
		return "", missingPackage(name, fmt.Errorf("apt-get download left %d files", len(debs)))
	}
	return debs[0], nil
}

// downloadClosure puts the .debs of the packages and of all that they depend on into dir and returns their paths.
func downloadClosure(ctx context.Context, dir string, packages []string) ([]string, error) {
	if err := os.Mkdir(filepath.Join(dir, "partial"), 0o700); err != nil {
		return nil, fmt.Errorf("download: %w", err)
	}
	args := []string{"install", "--download-only", "-q", "-y", "--no-install-recommends",
		// To apt, nothing is installed: what this machine has does not count for the guest.
		"-o", "Dir::State::status=/dev/null",
		"-o", "Dir::Cache::archives=" + dir,
		// Neither this machine's cached view of its packages nor its locks are touched.
		"-o", "Dir::Cache::pkgcache=", "-o", "Dir::Cache::srcpkgcache=", "-o", "Debug::NoLocking=1",
		"-o", "APT::Sandbox::User=root"}
	what := strings.Join(packages, " ")
	if _, err := aptCommand(ctx, dir, what, "apt-get", append(args, packages...)...); err != nil {
		return nil, err
	}
	debs, err := filepath.Glob(filepath.Join(dir, "*.deb")) // sorted, so that an image does not depend on chance
	if err != nil || len(debs) == 0 {
		return nil, missingPackage(what, errors.New("apt-get install --download-only left no files"))
	}
	return debs, nil
}

func missingPackage(name string, err error) error {
	return &MissingError{Part: "Debian package " + name, Get: "apt-get update", Err: err}
}

// aptCommand runs one of apt's programs for the named package and returns its output. Whatever fails, that package cannot be had.
func aptCommand(ctx context.Context, dir, name, program string, args ...string) ([]byte, error) {
	if err := lookProgram(program, "apt"); err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if ctx.Err() != nil {
		return nil, fmt.Errorf("%s: %w", program, ctx.Err())
	}
	if err != nil {
		return nil, missingPackage(name, fmt.Errorf("%s: %w: %s", program, err, bytes.TrimSpace(stderr.Bytes())))
	}
	return out, nil
}

// lookProgram returns a [MissingError] where program, of the given Debian package, is not on this machine.
func lookProgram(program, debianPackage string) error {
	if _, err := exec.LookPath(program); err != nil {
		return &MissingError{Part: program, Get: "apt-get install " + debianPackage}
	}
	return nil
}

// eachFile calls visit for every file of a .deb in its order. The reader holds the file's content until visit returns.
func eachFile(ctx context.Context, deb string, visit func(*tar.Header, io.Reader) error) error {
	if err := lookProgram("dpkg-deb", "dpkg"); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "dpkg-deb", "--fsys-tarfile", deb)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("dpkg-deb: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("dpkg-deb: %w", err)
	}
	err = func() error {
		files := tar.NewReader(out)
		for {
			header, err := files.Next()
			if err == io.EOF {
				// dpkg-deb pads the archive; it must be able to write all of it.
				_, err := io.Copy(io.Discard, out)
				return err
			}
			if err != nil {
				return err
			}
			if err := visit(header, files); err != nil {
				return err
			}
		}
	}()
	if err != nil {
		_ = cmd.Process.Kill()
	}
	waitErr := cmd.Wait()
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("unpack %s: %w", filepath.Base(deb), ctx.Err())
	case err != nil:
		return fmt.Errorf("unpack %s: %w", filepath.Base(deb), err)
	case waitErr != nil:
		return fmt.Errorf("unpack %s: %w: %s", filepath.Base(deb), waitErr, bytes.TrimSpace(stderr.Bytes()))
	}
	return nil
}
