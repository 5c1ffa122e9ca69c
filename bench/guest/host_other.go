//go:build !linux

package guest

import (
	"os"
	"os/exec"
)

// tieToParent does nothing: only Linux kills children with their parent.
func tieToParent(*exec.Cmd) {}

// nextData takes the whole file for data. Its zeros are found all the same.
func nextData(_ *os.File, at, size int64) (start, end int64, err error) { return at, size, nil }

// freeBytes knows of no file system in memory.
func freeBytes(string) int64 { return 0 }
