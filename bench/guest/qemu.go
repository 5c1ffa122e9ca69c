package guest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/arcboxlabs/arcstore/capture/qmp"
)

const (
	qemuProgram = "qemu-system-x86_64"
	qemuPackage = "qemu-system-x86"
)

// controlDescriptor is the number under which QEMU inherits its end of the control connection: the first of
// exec.Cmd.ExtraFiles. A socket that has no name needs no directory and leaves nothing behind.
const controlDescriptor = 3

// qemuArguments returns the command line for a guest whose memory file exists. One CPU: with more, the emulation of one
// guest would take the whole of a small machine, and a guest's memory is not the more realistic for it.
func qemuArguments(image Image, opts *Options) []string {
	share := "on"
	if opts.PrivateMemory {
		share = "off"
	}
	args := []string{
		"-accel", "tcg", "-smp", "1", "-m", fmt.Sprintf("%dM", opts.MemoryBytes>>20),
		"-object", fmt.Sprintf("memory-backend-file,id=ram,size=%d,mem-path=%s,share=%s",
			opts.MemoryBytes, strings.ReplaceAll(opts.MemoryPath, ",", ",,"), share),
		"-machine", "pc,memory-backend=ram",
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console",
		"-chardev", fmt.Sprintf("socket,id=control,fd=%d", controlDescriptor), "-mon", "chardev=control,mode=control",
		"-kernel", image.Kernel, "-initrd", image.Initramfs,
		// A kernel that panics reboots, and -no-reboot makes that the end of QEMU. The emulated timer fails the
		// kernel's test of it when the host is busy.
		"-append", fmt.Sprintf("console=ttyS0 quiet panic=-1 no_timer_check arcstore.seed=%d", opts.Seed),
	}
	if opts.QMPSocket != "" {
		args = append(args, "-chardev", "socket,id=second,server=on,wait=off,path="+strings.ReplaceAll(opts.QMPSocket, ",", ",,"), "-mon", "chardev=second,mode=control")
	}
	if opts.Incoming != "" {
		args = append(args, "-S", "-incoming", "defer")
	}
	return args
}

// A qemuProcess is a running QEMU.
type qemuProcess struct {
	cmd    *exec.Cmd
	stderr tail
	gone   chan struct{} // closed when it has ended
}

// startQEMU starts QEMU with its console on the one file and its control connection on the other; both stay the caller's.
func startQEMU(args []string, console, control *os.File) (*qemuProcess, error) {
	p := &qemuProcess{cmd: exec.Command(qemuProgram, args...), gone: make(chan struct{})}
	p.cmd.Stdout = console
	p.cmd.Stderr = &p.stderr
	p.cmd.ExtraFiles = []*os.File{control}
	tieToParent(p.cmd)
	started := make(chan error)
	go func() {
		// Linux kills a tied child when the thread that started it ends, so that thread must last.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		started <- err
		if err == nil {
			_ = p.cmd.Wait() // ProcessState then says how it ended
		}
		close(p.gone)
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

// kill ends the process and waits for that.
func (p *qemuProcess) kill() {
	_ = p.cmd.Process.Kill() // fails only where it has ended
	<-p.gone
}

// ended returns what led to err, if that is that QEMU has ended, and otherwise nil.
func (p *qemuProcess) ended(err error) error {
	if !errors.Is(err, qmp.ErrEnded) && !errors.Is(err, io.EOF) {
		return nil
	}
	select {
	case <-p.gone:
		return fmt.Errorf("qemu ended: %v: %s", p.cmd.ProcessState, p.stderr.String())
	case <-time.After(time.Second): // it closes its files a moment before it is gone
		return nil
	}
}

// A tail keeps the last few kilobytes written to it.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

const tailBytes = 4096

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	if extra := len(t.buf) - tailBytes; extra > 0 {
		t.buf = append(t.buf[:0], t.buf[extra:]...)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(bytes.TrimSpace(t.buf))
}
