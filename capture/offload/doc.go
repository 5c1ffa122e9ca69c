// Package offload is the protocol by which Cloud Hypervisor hands a guest to another process, and takes one from it: it gives messages to capture
// and to restore, and knows nothing of snapshots.
//
// Start with [Listen] and [Conn.ReadRequest] on the side that a guest comes to, with [Dial] and [Conn.Ask] on the side that it comes from, and
// with [ParseConfig], which finds the guest's memory. PROTOCOL.md says what goes over the wire.
package offload
