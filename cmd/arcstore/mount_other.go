//go:build !linux

package main

import "github.com/spf13/cobra"

func runMount(*cobra.Command, *app, mountOptions, string) error { return errNeedsLinux }
