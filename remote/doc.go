// Package remote keeps snapshots in an S3 bucket that any number of hosts share: it takes what is to go there from the
// store and the manifests, and gives it back to them.
//
// A [Bucket] is where the objects lie. LAYOUT.md describes the objects, and why no request of one host can harm another's.
package remote
