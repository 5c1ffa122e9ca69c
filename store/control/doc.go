// Package control is how the process that holds a store answers others: JSON over HTTP, on a Unix socket in the store's
// directory. It gives the façade the transport for what that offers, and clients the way to it; it knows nothing of snapshots.
//
// Start with [Listen] and [Handle] on the side that answers, and with [Dial] and [Caller.Call] on the one that asks.
//
// An answer is one JSON document. Where the request accepts [Lines], it may also be a sequence of JSON lines, each an [Event]: what there is
// to tell while an operation runs, and last its result or its failure. An operation ends when who asked for it goes away.
package control
