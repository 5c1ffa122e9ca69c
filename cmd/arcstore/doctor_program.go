package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// sbin are directories of programs for root, which users' PATHs often lack.
var sbin = []string{"/usr/sbin", "/sbin", "/usr/local/sbin"}

// findProgram returns the path of a program, or "".
func findProgram(name string) string {
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	for _, dir := range sbin {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path
		}
	}
	return ""
}

// answer runs a program that should answer at once and returns the first line of what it
// wrote. An error has that line, too.
func answer(ctx context.Context, path string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, childTime)
	defer cancel()
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) } // its children, too
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	line, _, _ := strings.Cut(strings.TrimSpace(strings.ToValidUTF8(out.String(), "?")), "\n")
	switch {
	case err == nil:
		return line, nil
	case ctx.Err() != nil:
		err = ctx.Err()
	case line != "":
		err = fmt.Errorf("%w: %s", err, line)
	}
	return line, fmt.Errorf("%s: %w", strings.Join(append([]string{path}, args...), " "), err)
}

// problem is an error as a finding.
func problem(err error) string {
	if errors.Is(err, context.DeadlineExceeded) {
		return strings.Replace(plain(err), context.DeadlineExceeded.Error(), fmt.Sprintf("no answer within %v", childTime), 1)
	}
	return plain(err)
}

// checkProgram looks for a program and asks for its version.
func checkProgram(ctx context.Context, name, advice string) (finding, error) {
	path := findProgram(name)
	if path == "" {
		return finding{statusMissing, "no " + name + " in PATH", advice}, nil
	}
	version, err := answer(ctx, path, "--version")
	if err != nil {
		return finding{statusMissing, problem(err), advice}, nil
	}
	return finding{Status: statusOK, Found: fmt.Sprintf("%s (%s)", version, path)}, nil
}

func checkRunc(ctx context.Context) (finding, error) {
	return checkProgram(ctx, "runc", "install runc (Debian: apt-get install runc)")
}

// checkPacketFilter looks for what CRIU locks TCP connections with while it dumps or restores them.
func checkPacketFilter(ctx context.Context) (finding, error) {
	advice := "install iptables (Debian: apt-get install iptables): CRIU locks TCP connections with it while it dumps or restores them"
	f, err := checkProgram(ctx, "iptables", advice)
	if err != nil || f.Status == statusOK {
		return f, err
	}
	if nft, err := checkProgram(ctx, "nft", ""); err == nil && nft.Status == statusOK {
		return finding{statusLimited, nft.Found + ", which only a CRIU built with libnftables can use", advice}, nil
	}
	return finding{statusMissing, "neither iptables nor nft", advice}, nil
}

// emulators has QEMU's program for each architecture, and Debian's package of it.
var emulators = map[string][2]string{
	"amd64":   {"qemu-system-x86_64", "qemu-system-x86"},
	"arm64":   {"qemu-system-aarch64", "qemu-system-arm"},
	"ppc64le": {"qemu-system-ppc64", "qemu-system-ppc"},
	"riscv64": {"qemu-system-riscv64", "qemu-system-misc"},
	"s390x":   {"qemu-system-s390x", "qemu-system-misc"},
}

func checkQEMU(ctx context.Context) (finding, error) {
	e, ok := emulators[runtime.GOARCH]
	if !ok {
		e = [2]string{"qemu-system-" + runtime.GOARCH, "qemu-system"}
	}
	return checkProgram(ctx, e[0], "install QEMU (Debian: apt-get install "+e[1]+")")
}

// otherHypervisors returns checks of those that are installed.
func otherHypervisors() []check {
	var checks []check
	for _, name := range []string{"firecracker", "cloud-hypervisor"} {
		if findProgram(name) != "" {
			checks = append(checks, check{name, "its machines", func(ctx context.Context) (finding, error) {
				return checkProgram(ctx, name, "install it anew")
			}})
		}
	}
	return checks
}
