// Package arcstore keeps snapshots of virtual machines and containers: deduplicated, compressed, incremental, verified.
//
// Start with [Init] and [Open]; [Manager.CreateVM] takes a snapshot and [Manager.Restore] brings one back. A [Manager] is
// safe for concurrent use. The packages below it (chunker, store, manifest, capture, restore) do the work; this one wires
// them together and adds what needs all of them: parents, retention, garbage collection, verification.
package arcstore
