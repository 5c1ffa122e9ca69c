package s3server

import (
	"os/exec"
	"syscall"
)

// dieWithParent makes the kernel end a program with the thread that starts it.
func dieWithParent(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
