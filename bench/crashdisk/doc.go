// Package crashdisk is a disk for tests of packages that keep files: it works on a real directory, knows what
// a loss of power would leave of it, and fails on demand.
//
// Start with New; Disk.Hook looks at every operation and may fail it, and Disk.Crash makes another directory of
// what a loss of power would leave now. It imports nothing of this module.
package crashdisk
