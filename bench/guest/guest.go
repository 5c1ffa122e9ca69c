package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"

	"github.com/arcboxlabs/arcstore/capture/qmp"
)

// ErrRunning is the error of what can only be done to a paused guest.
var ErrRunning = errors.New("guest is running")

// DefaultMemoryBytes is the RAM of a new guest whose options do not say: 128 MiB, plenty for [Counter].
const DefaultMemoryBytes = 128 << 20

// Options say how a guest is started. nil and the zero value are a new guest with [DefaultMemoryBytes] of RAM.
type Options struct {
	// MemoryPath is the file that is the guest's RAM: byte n of it is byte n of guest-physical memory (below 3 GiB), and
	// what the guest writes is in it at once. A new guest's file is made, or emptied, sparse. It stays the caller's.
	// Empty: a temporary file that Close removes.
	MemoryPath string

	// MemoryBytes is the size of the RAM, a multiple of 1 MiB and at most 3 GiB (beyond, a PC's RAM has a gap).
	// 0: DefaultMemoryBytes, or with Incoming the size of the file.
	MemoryBytes int64

	// PrivateMemory keeps the guest's writes out of the file, which is then only read (but opened for writing: QEMU 7
	// does). It is for guests whose RAM comes from elsewhere, such as a mounted snapshot.
	PrivateMemory bool

	// Seed gives guests of one image different data and timing. Only Busy makes use of it.
	Seed uint32

	// Incoming is the path of a device state that SaveDeviceState has written. MemoryPath is then the RAM of the same
	// moment, and the guest is where it was, paused.
	Incoming string

	// Files are files of this machine that a new guest finds in its root, by their paths in the guest. They are executable.
	Files map[string]string

	// QMPSocket is where QEMU listens for a second QMP session, beside that of the Guest; empty: nowhere.
	QMPSocket string

	// ConsoleLog gets all that the guest prints, from another goroutine, until Close returns. nil: none. Its errors are ignored.
	ConsoleLog io.Writer
}

// A Guest is a QEMU process and what runs in it. Its methods may be called at once from several goroutines; they return
// an error that says what QEMU had to say when the process has ended.
type Guest struct {
	process *qemuProcess
	qmp     *qmp.Client
	console *console
	memory  *os.File // the RAM, held open so that it can be copied even when its name is gone
	opts    Options
	ownFile bool

	mu     sync.Mutex // one of pausing, resuming, saving at a time
	paused bool

	initramfs string // with Options.Files, which Close removes; "" for none

	closing  sync.Once
	closeErr error
}

// Start starts a guest: a new one from image, or one that was saved, paused. ctx bounds the start alone: the guest lives
// until Close, or until the process that started it dies (on Linux). The caller must call Close.
func Start(ctx context.Context, image Image, opts *Options) (*Guest, error) {
	g := &Guest{}
	if opts != nil {
		g.opts = *opts
	}
	if err := g.start(ctx, image); err != nil {
		err = fmt.Errorf("guest: start: %w", g.explain(err))
		return nil, errors.Join(err, g.Close())
	}
	return g, nil
}

func (g *Guest) start(ctx context.Context, image Image) error {
	if err := lookProgram(qemuProgram, qemuPackage); err != nil {
		return err
	}
	if err := g.openMemory(); err != nil {
		return err
	}
	if len(g.opts.Files) > 0 {
		if err := g.bring(&image); err != nil {
			return err
		}
	}
	output, input, err := os.Pipe()
	if err != nil {
		return err
	}
	defer input.Close()
	g.console = newConsole(output, g.opts.ConsoleLog)

	control, theirs, err := socketPair()
	if err != nil {
		return err
	}
	defer theirs.Close()
	g.process, err = startQEMU(qemuArguments(image, &g.opts), input, theirs)
	if err != nil {
		control.Close()
		return err
	}
	// With our copy of their end open, the connection would outlive QEMU.
	theirs.Close()
	if g.qmp, err = qmp.New(ctx, control); err != nil {
		return err
	}
	if g.opts.Incoming == "" {
		return nil
	}
	g.paused = true
	return g.loadDeviceState(ctx, g.opts.Incoming)
}

// bring makes an initramfs with Options.Files for the image.
func (g *Guest) bring(image *Image) error {
	f, err := os.CreateTemp("", "arcstore-guest-*.initramfs")
	if err != nil {
		return err
	}
	defer f.Close()
	g.initramfs = f.Name()
	if err := addFiles(f, *image, g.opts.Files); err != nil {
		return fmt.Errorf("files for the guest: %w", err)
	}
	image.Initramfs = g.initramfs
	return f.Close()
}

// MemoryPath returns the path of the file that is the guest's RAM.
func (g *Guest) MemoryPath() string { return g.opts.MemoryPath }

// WaitFor returns the next line of the console, without its end, for which match is true. Lines are taken in order and
// each is looked at once: a later WaitFor goes on after the line that this one returned.
func (g *Guest) WaitFor(ctx context.Context, match func(line string) bool) (string, error) {
	line, err := g.console.waitFor(ctx, match)
	if err != nil {
		return "", fmt.Errorf("guest: console: %w", g.explain(err))
	}
	return line, nil
}

// LastCount returns N of the last "count N" that the guest has printed since it was started, 0 before the first. After
// Pause it is exact: the same guest, resumed or restored, prints N+1 next.
func (g *Guest) LastCount() int { return g.console.lastCount() }

// Pause stops the guest. It does so between two lines of the console, so that a restored guest begins with a whole line:
// a guest that leaves a line unfinished for ever is paused only when ctx ends, with its error. After an
// error the guest may be running or not; Pause and Resume can be tried again. To pause a paused guest does nothing.
func (g *Guest) Pause(ctx context.Context) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	for !g.paused {
		if err := g.pauseOnce(ctx); err != nil {
			return fmt.Errorf("guest: pause: %w", g.explain(err))
		}
	}
	return nil
}

func (g *Guest) pauseOnce(ctx context.Context) error {
	if err := g.qmp.Run(ctx, "stop", nil, nil); err != nil {
		return err
	}
	atEnd, err := g.console.lineEnd(ctx)
	if err != nil {
		return err
	}
	if atEnd {
		g.paused = true
		return nil
	}
	if err := g.qmp.Run(ctx, "cont", nil, nil); err != nil {
		return err
	}
	return g.console.waitLine(ctx)
}

// Running reports whether the guest's processor runs, whoever paused it.
func (g *Guest) Running(ctx context.Context) (bool, error) {
	running, _, err := g.qmp.Running(ctx)
	return running, err
}

// Resume lets a paused or restored guest run on. To resume a running guest does nothing.
func (g *Guest) Resume(ctx context.Context) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.qmp.Run(ctx, "cont", nil, nil); err != nil {
		return fmt.Errorf("guest: resume: %w", g.explain(err))
	}
	g.paused = false
	return nil
}

// Close kills the guest, whatever it does, and waits until it is gone. Its RAM file is left as it is, unless it is the
// guest's own. Further calls return the same error.
func (g *Guest) Close() error {
	g.closing.Do(func() {
		if g.process != nil {
			g.process.kill()
		}
		if g.qmp != nil {
			g.qmp.Close()
		}
		if g.console != nil {
			g.console.close()
		}
		if g.memory != nil {
			g.memory.Close()
		}
		if g.initramfs != "" {
			os.Remove(g.initramfs)
		}
		if g.ownFile {
			if err := os.Remove(g.opts.MemoryPath); err != nil && !errors.Is(err, fs.ErrNotExist) {
				g.closeErr = fmt.Errorf("guest: close: %w", err)
			}
		}
	})
	return g.closeErr
}

// explain adds to an error what QEMU said when it ended.
func (g *Guest) explain(err error) error {
	if g.process == nil {
		return err
	}
	if why := g.process.ended(err); why != nil {
		return why
	}
	return err
}
