// Package manifest says what a snapshot is: capture builds page tables with it, restore and garbage collection read them.
//
// Start with [Files.Build] and [Files.Open] for page tables, and with [Catalogue] for the list of snapshots. FORMAT.md
// describes the files. This package knows chunk IDs, not where chunks lie.
package manifest
