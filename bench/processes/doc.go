// Package processes starts real workloads for tests and benchmarks of
// checkpoints: each counts in a file while it works, and can be asked whether its data is right.
package processes
