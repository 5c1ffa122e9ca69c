package main

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// monotonicTime is what systemd wants to know when a service reads its configuration again.
func monotonicTime() string {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
		return ""
	}
	return fmt.Sprintf("MONOTONIC_USEC=%d", t.Nano()/1000)
}
