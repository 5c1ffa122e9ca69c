// Package firecracker plays Firecracker for the tests: a process that answers at an API socket as Firecracker's documentation says, and has
// a guest whose memory changes all the time. No KVM is needed; nothing but snapshots of a guest that runs is played. It goes by
// https://github.com/firecracker-microvm/firecracker, src/firecracker/swagger/firecracker.yaml and docs/snapshotting.
package firecracker
