// Package vmm plays a VMM whose guest's memory is loaded by page faults: a process of its own, which maps memory, registers it
// with a userfaultfd, hands that over on a Unix socket byte for byte as Firecracker does, and then touches, frees and unmaps pages and
// compares each with what it must be. It is for tests and benchmarks.
//
// Start with [Start]. The process is another run of the program that imports this package.
package vmm
