package main

import (
	"errors"
	"strings"

	"github.com/dustin/go-humanize"
)

// sizeFlag is a flag for a number of bytes: 4KiB, 2MiB, 4096.
type sizeFlag int64

func (s *sizeFlag) String() string {
	return strings.ReplaceAll(strings.Replace(humanize.IBytes(uint64(*s)), ".0 ", " ", 1), " ", "")
}

func (s *sizeFlag) Set(text string) error {
	n, err := humanize.ParseBytes(text)
	if err != nil || n > 1<<62 {
		return errors.New("it is not a size such as 4KiB or 2MiB")
	}
	*s = sizeFlag(n)
	return nil
}

func (s *sizeFlag) Type() string { return "SIZE" }
