// Package restore brings snapshots back: it takes page tables from a manifest and chunks from a store, and gives files and bytes, and
// pages to guests that already run.
//
// Start with [Dir], which restores every stream of a snapshot as a sparse file, or with [Stream] for one, to any io.WriterAt.
// [NewReader] reads parts. [NewOffload] makes a guest for Cloud Hypervisor. [NewPages] does so for who reads here and there, page by page; on Linux, ServeMemory loads a guest's memory with it as the guest touches it, and
// package mount shows it as files.
package restore
