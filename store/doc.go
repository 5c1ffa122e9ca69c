// Package store keeps chunks: it receives them from capture and gives them to restore and remote.
//
// Start with [Init] and [Open]; a [Writer] puts chunks in, a [Fetcher] gets them out, [Store.Sweep] drops those that are
// no longer needed, and [Store.Verify] checks the rest. FORMAT.md describes the files.
//
// Chunks lie in frames, frames in packs; a pack is immutable and describes itself, so everything else in this package
// (the filter, the index in Badger, every cache) is derived from the packs and can be made again.
package store
