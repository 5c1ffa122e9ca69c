package criu

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/arcboxlabs/arcstore/chunker"
)

// Images are the files of a checkpoint, by CRIU's names for them ("core-1.img",
// "pages-1.img"), without directories.
type Images map[string]chunker.Source

// An ImageError says what is wrong with an image file. Damage and files that
// are missing come as this error; errors of reading do as Err.
type ImageError struct {
	Name string // of the file: "pagemap-1.img"
	Why  string
	Err  error // what failed, or nil
}

func (e *ImageError) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("criu: image %s: %s: %v", e.Name, e.Why, e.Err)
	}
	return fmt.Sprintf("criu: image %s: %s", e.Name, e.Why)
}

// Unwrap returns what failed.
func (e *ImageError) Unwrap() error { return e.Err }

func damaged(name, format string, args ...any) error {
	return &ImageError{Name: name, Why: fmt.Sprintf(format, args...)}
}

// Pagemaps returns the names of the images that say where memory lies, sorted:
// one a process (pagemap-PID.img) and one a piece of shared memory (pagemap-shmem-ID.img).
func (images Images) Pagemaps() []string {
	var names []string
	for _, name := range slices.Sorted(maps.Keys(images)) {
		if strings.HasPrefix(name, "pagemap-") && strings.HasSuffix(name, ".img") {
			names = append(names, name)
		}
	}
	return names
}
