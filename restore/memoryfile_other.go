//go:build !linux

package restore

import (
	"errors"
	"os"
)

var errNoMemoryFiles = errors.New("this system has no files that are memory: Linux has")

// newMemoryFile fails: Cloud Hypervisor runs on Linux.
func newMemoryFile(string) (*os.File, error) { return nil, errNoMemoryFiles }

// allocatePages fails, as newMemoryFile does.
func allocatePages(*os.File, int64, int64) error { return errNoMemoryFiles }
