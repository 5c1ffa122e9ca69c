// Package restore brings snapshots back: it takes page tables from a manifest and chunks from a store, and gives files and bytes.
//
// Start with [Dir], which restores every stream of a snapshot as a sparse file, or with [Stream] for one, to any io.WriterAt.
// [NewReader] reads parts. [NewOffload] makes a guest for Cloud Hypervisor.
package restore
