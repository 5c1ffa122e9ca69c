package criu

// RestoreOptions are the choices of a restore. Those that DumpOptions has, too, must be as they were for the dump.
type RestoreOptions struct {
	TCPEstablished bool
	FileLocks      bool
	ShellJob       bool
	ExtUnixSockets bool
	External       []string
	// Cgroup is a path below the mount of each cgroup hierarchy, which is
	// made where it is not there: the tree is restored in it. "" leaves the tree in that of this process.
	Cgroup string
}
