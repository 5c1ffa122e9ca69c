// Package mount shows snapshots as files: target, snapshot, stream, read-only, and read as they are needed. A VMM maps such a file
// as it would any other, and all who map it share the pages that the kernel keeps of it.
//
// Start with [Mount]. The package knows neither stores nor page tables: who mounts gives it a [Tree].
package mount
