//go:build !linux

package main

// monotonicTime is for systemd, which is elsewhere.
func monotonicTime() string { return "" }
