// Package criu drives CRIU, which checkpoints and restores process trees, and
// reads the image files that it writes.
//
// Start with [Flatten], which merges incremental images, [ReadPagemap], which
// tells where the memory of a process lies, and [Images.Each] for the rest.
package criu
