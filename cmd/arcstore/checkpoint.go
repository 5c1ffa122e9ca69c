package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"

	"github.com/arcboxlabs/arcstore/capture"
)

// externalForm is how CRIU names resources: "mnt[/data]:data", "file[1:2a]", "dev[8/1]:disk", "unix[1234]", "net[3]:eth0".
var externalForm = regexp.MustCompile(`^[a-z]+\[.*\](:.*)?$`)

// explainCheckpoint names the flag of the choice that a checkpoint needs.
func explainCheckpoint(err error) error {
	var c *capture.ChoiceError
	if !errors.As(err, &c) {
		return err
	}
	switch c.Choice {
	case capture.ChoiceTCP:
		return hinted{err, "--tcp-established keeps it"}
	case capture.ChoiceFileLocks:
		return hinted{err, "--file-locks keeps them"}
	case capture.ChoiceShellJob:
		return hinted{err, "start it with setsid, and its input and output at /dev/null or in files, or allow it with --shell-job"}
	case capture.ChoiceUnixSockets:
		return hinted{err, "--ext-unix-sockets allows it"}
	case capture.ChoiceGhostLimit:
		const mebibyte = 1 << 20
		return hinted{err, fmt.Sprintf("--ghost-limit %dMiB takes it along", (c.Least+mebibyte-1)/mebibyte)}
	}
	return err
}

// checkImages looks at what --images names, before anything else is done.
func checkImages(name string) error {
	switch info, err := os.Stat(name); {
	case name == "":
		return usagef("--images is empty: it takes a directory of CRIU's images, or an archive")
	case name == "-":
		return usagef("--images reads no pipe: an archive is read in any order, so give a file")
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("--images: %s: no such file or directory", name)
	case err != nil:
		return fmt.Errorf("--images: %w", err)
	case !info.IsDir() && !info.Mode().IsRegular():
		return usagef("--images %s is neither a directory nor a file: pipes and devices are not read", name)
	case info.IsDir():
		_, lacks := os.Lstat(filepath.Join(name, "inventory.img"))
		_, has := os.Lstat(filepath.Join(name, "criu", "inventory.img"))
		if lacks != nil && has == nil {
			return usagef("--images %s is what restore --output wrote: give %s", name, filepath.Join(name, "criu"))
		}
	}
	return nil
}
