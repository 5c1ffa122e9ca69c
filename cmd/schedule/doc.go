// Package schedule does what is to be done again and again to a store: snapshots of targets, with their retention and their way to a remote,
// garbage collection, and verification. It stands on the façade, and arcstore serve runs it; a Go runtime may as well.
//
// Start with [ReadConfig], and [NewRunner] with its methods Apply, Handler and Close.
package schedule
