//go:build unix

package main

import (
	"os/exec"
	"syscall"
)

// apart keeps signals of our terminal, or to our process group, from a command.
func apart(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} }
