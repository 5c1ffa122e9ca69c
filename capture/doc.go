// Package capture takes snapshots: it reads guest memory and machine state, and gives chunks to a store and page tables to a manifest.
//
// Start with [CaptureVM], or with [Stream] for a single stream; [OpenFile] makes a source of a memory file.
// [TakeCloudOffer] takes a guest that Cloud Hypervisor hands over.
// [OpenDir] opens what CRIU dumped of processes, and [Describe] tells what that holds.
package capture
