//go:build !linux

package main

import "errors"

var errNeedsLinux = errors.New("it needs Linux")

func (b *bench) latency() error    { return errNeedsLinux }
func (b *bench) workingSet() error { return errNeedsLinux }
func (b *bench) clones() error     { return errNeedsLinux }
func (b *bench) firstPage() error  { return errNeedsLinux }
