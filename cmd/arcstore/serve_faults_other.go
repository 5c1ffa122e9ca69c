//go:build !linux

package main

import (
	"errors"

	"github.com/spf13/cobra"
)

var errNeedsLinux = errors.New("this needs Linux: restore the files with arcstore restore instead")

func runServeFaults(*cobra.Command, *app, serveFaultsOptions, string) error { return errNeedsLinux }

func killGuest() error { return errNeedsLinux }
