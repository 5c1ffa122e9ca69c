// Package guest boots real Linux guests in QEMU (TCG, no KVM) for the tests and benchmarks, and gives them their
// memory as a file.
//
// [Prepare] makes what a guest boots from, out of Debian's own packages. [Start] boots it; while the guest is paused,
// the file that is its RAM is a snapshot's memory and [Guest.SaveDeviceState] writes the rest. [BenchInputs] gives the
// benchmarks their three memory files. A machine that lacks a part of all this gets a [MissingError], and [Excuse]
// says whether a test may skip for it.
//
// The package knows nothing of the store: it must not import any other package of this module.
package guest
