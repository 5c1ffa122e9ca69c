package criu

// DumpOptions are the choices of a dump.
type DumpOptions struct {
	PID            int  // root of the tree
	LeaveRunning   bool // let the tree go on afterwards; otherwise it is killed
	TCPEstablished bool
	FileLocks      bool
	ShellJob       bool     // the tree belongs to a terminal's session
	ExtUnixSockets bool     // unix sockets may lead to processes outside
	External       []string // resources that are not dumped, as CRIU's --external names them
	GhostLimit     int64    // bytes of a deleted file that is still open; 0 means CRIU's default, 1 MiB
	Parent         string   // directory of the pre-dump before, relative to this dump's; "" for none
}
