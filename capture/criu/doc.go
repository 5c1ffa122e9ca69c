// Package criu drives CRIU, which checkpoints and restores process trees, and
// reads the image files that it writes.
package criu
