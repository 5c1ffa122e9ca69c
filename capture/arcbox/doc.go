// Package arcbox reads and writes the snapshot directories of arcbox-snapshot, arcstore's predecessor: of each snapshot
// a directory that is named after its ID, with snapshot.json, and for a VM vm_state.json and memory.bin or
// memory.bin.lz4, for a container container_checkpoint.json and CRIU's images in criu. The layout is that of the crate's
// public sources.
package arcbox
