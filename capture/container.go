package capture

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/arcboxlabs/arcstore/capture/criu"
	"github.com/arcboxlabs/arcstore/chunker"
	"github.com/arcboxlabs/arcstore/manifest"
)

// ErrNoProcess is wrapped by the errors for a process or a container that is not there, or not running.
var ErrNoProcess = errors.New("no such process")

// A Container is what CaptureContainer checkpoints: exactly one of PID, Runc and Images says what.
type Container struct {
	// PID is the root of a process tree, in this process's PID namespace.
	PID int `json:"pid,omitempty"`
	// Runc is the ID of a running container of runc's; RuncRoot is its --root, "" for runc's default.
	Runc     string `json:"runc,omitempty"`
	RuncRoot string `json:"runc_root,omitempty"`
	// Images is a checkpoint that somebody else made: a directory of CRIU's
	// images, or an archive of podman's or of Kubernetes'.
	Images string `json:"images,omitempty"`

	// The others are for live processes, not for Images.

	// LeaveRunning lets the processes go on; otherwise they are killed once their snapshot is durable.
	LeaveRunning bool `json:"leave_running,omitempty"`
	// Options are given to CRIU, and repeated by a restore.
	Options manifest.CheckpointOptions `json:"options,omitzero"`
	// GhostLimit is how large a deleted file may be, in bytes, that is still
	// open and so becomes part of the checkpoint; 0 means CRIU's default, 1 MiB.
	GhostLimit int64 `json:"ghost_limit,omitempty"`
	// PreDumps is how often, at most, memory is read while the processes run,
	// so that they are stopped for what changed meanwhile alone; 0 means
	// DefaultPreDumps, negative none. Where the kernel does not track changes, there are none.
	PreDumps int `json:"pre_dumps,omitempty"`
	// Note is told what the user should know; nil for nobody.
	Note func(text string) `json:"-"`
}

// MaxGhostLimit is the largest GhostLimit that CRIU takes, in bytes.
const MaxGhostLimit = math.MaxUint32

// runtimeImage is a file that runc, and runtimes like it, leave beside CRIU's images.
const runtimeImage = "descriptors.json"

// DefaultPreDumps is how often, at most, the memory of running processes is read before they are stopped.
const DefaultPreDumps = 3

func (c *Container) note(format string, args ...any) {
	if c.Note != nil {
		c.Note(fmt.Sprintf(format, args...))
	}
}

// check makes sure that c says what to checkpoint, once.
func (c *Container) check() error {
	said := 0
	for _, is := range []bool{c.PID != 0, c.Runc != "", c.Images != ""} {
		if is {
			said++
		}
	}
	if said != 1 {
		return fmt.Errorf("%w: give one of a process, a container of runc's, and images", ErrInvalid)
	}
	if c.RuncRoot != "" && c.Runc == "" {
		return fmt.Errorf("%w: runc's root is given, but no container of runc's", ErrInvalid)
	}
	if c.GhostLimit < 0 || c.GhostLimit > MaxGhostLimit {
		return fmt.Errorf("%w: a limit of %d bytes for deleted files that are open is out of range: at most %d", ErrInvalid, c.GhostLimit, int64(MaxGhostLimit))
	}
	if c.Images != "" && c.LeaveRunning {
		return fmt.Errorf("%w: images do not run, so they cannot be left running", ErrInvalid)
	}
	return nil
}

// CaptureContainer captures a checkpoint: chunks go to sink, page tables to
// b, and commit makes them a durable snapshot. Processes stay stopped while
// that happens: where anything fails, commit included, they go on as if
// nothing had happened; only when commit has returned nil, they are killed,
// or let go on with c.LeaveRunning. An error after that says that they were not.
//
// staging is an empty directory for CRIU's images, which the caller removes afterwards.
func CaptureContainer(ctx context.Context, c *Container, staging string, sink Sink, b *manifest.Builder, opts Options, commit func(Stats) error) error {
	if err := c.check(); err != nil {
		return fmt.Errorf("capture: %w", err)
	}
	save := func(im *images, engine, name, version string) error {
		stats, err := im.capture(ctx, c, engine, name, version, sink, b, opts)
		if err != nil {
			return err
		}
		return commit(stats)
	}
	if c.Images != "" {
		im, err := openImages(ctx, c, staging)
		if err != nil {
			return fmt.Errorf("capture: %w", err)
		}
		defer im.Close()
		engine := "criu"
		if im.criu[runtimeImage] != nil {
			engine = "runc"
		}
		return save(im, engine, "", "")
	}
	if os.Geteuid() != 0 {
		return fmt.Errorf("capture: %w: checkpoints of processes need root", os.ErrPermission)
	}
	path, version, err := criu.Usable(ctx)
	if err != nil {
		return fmt.Errorf("capture: %w", err)
	}
	var d dumper
	engine, name := "criu", ""
	if c.Runc != "" {
		engine, name = "runc", c.Runc
		d, err = newRuncDumper(ctx, c, path, staging)
	} else {
		d, err = newTreeDumper(c, path, staging)
	}
	if err != nil {
		return fmt.Errorf("capture: %w", err)
	}
	parent, tracks, err := preDumps(ctx, c, d, path, staging)
	if err != nil {
		return fmt.Errorf("capture: %w", err)
	}
	dir := filepath.Join(staging, "images")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("capture: %w", err)
	}
	err = d.dump(ctx, dir, parent, func() error {
		im, err := openImageDir(dir)
		if err != nil {
			return err
		}
		defer im.Close()
		return save(im, engine, name, version.String())
	})
	if err != nil {
		return fmt.Errorf("capture: %w", err)
	}
	if !tracks {
		c.note("this kernel does not track changed pages (CONFIG_MEM_SOFT_DIRTY), so the processes stood still while all of their memory was read")
	}
	return nil
}

// dumper makes CRIU write images to directories below one that it knows.
// parent is the directory of the pre-dump before, relative to dir, or "".
type dumper interface {
	preDump(ctx context.Context, dir, parent string) error
	// dump calls stopped while the processes are stopped, and lets them go on if that fails.
	dump(ctx context.Context, dir, parent string, stopped func() error) error
}

// preDumps reads memory while the processes run, and returns the last
// pre-dump's directory as a parent for the dump; "" if there was none. tracks is
// false where pre-dumps were wanted, and the kernel cannot have any.
func preDumps(ctx context.Context, c *Container, d dumper, path, staging string) (parent string, tracks bool, err error) {
	rounds := c.PreDumps
	if rounds == 0 {
		rounds = DefaultPreDumps
	}
	if rounds < 0 {
		return "", true, nil
	}
	if tracks, err = criu.TracksMemory(path); err != nil || !tracks {
		return "", tracks, err
	}
	before := int64(0)
	for i := range rounds {
		name := fmt.Sprintf("pre-%d", i+1)
		dir := filepath.Join(staging, name)
		if err := os.Mkdir(dir, 0o700); err != nil {
			return "", true, err
		}
		if err := d.preDump(ctx, dir, parent); err != nil {
			return "", true, err
		}
		parent = filepath.Join("..", name)
		written, err := pageBytes(dir)
		if err != nil {
			return "", true, err
		}
		// Another round pays while each leaves much less to the next.
		if i > 0 && written > before/2 {
			break
		}
		before = written
	}
	return parent, true, nil
}

// pageBytes returns how much memory a dump wrote, in bytes.
func pageBytes(dir string) (int64, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0, err
	}
	sum := int64(0)
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "pages-") {
			info, err := e.Info()
			if err != nil {
				return 0, err
			}
			sum += info.Size()
		}
	}
	return sum, nil
}

// images are the files of a checkpoint.
type images struct {
	criu  criu.Images
	rest  map[string]chunker.Source // further streams, by their whole names
	about *manifest.Checkpoint      // what the archive says of itself; nil for no archive
	io.Closer
}

// openImageDir opens a directory of images.
func openImageDir(dir string) (*images, error) {
	files, closer, err := OpenDir(dir)
	if err != nil {
		return nil, err
	}
	return &images{criu: files, Closer: closer}, nil
}

// capture captures the images and a description of what is in them.
func (im *images) capture(ctx context.Context, c *Container, engine, name, version string, sink Sink, b *manifest.Builder, opts Options) (Stats, error) {
	about, warnings, err := Describe(im.criu)
	if err != nil {
		return Stats{}, err
	}
	if err := complete(im.criu, about.Processes); err != nil {
		return Stats{}, fmt.Errorf("capture: %w", err)
	}
	for _, w := range warnings {
		c.note("%s", w)
	}
	about.Engine, about.Name, about.CRIU = engine, name, version
	about.Options = join(about.Options, c.Options)
	if im.about != nil {
		about.Engine, about.Name, about.CRIU, about.Image = im.about.Engine, im.about.Name, im.about.CRIU, im.about.Image
	}
	encoded, err := about.Encode()
	if err != nil {
		return Stats{}, err
	}
	streams := map[string]chunker.Source{manifest.CheckpointStream: Bytes(encoded)}
	for name, src := range im.rest {
		streams[name] = src
	}
	for name, src := range im.criu {
		streams[manifest.CRIUPrefix+name] = src
	}
	sorted, err := sortStreams(streams)
	if err != nil {
		return Stats{}, err
	}
	return captureStreams(ctx, sorted, sink, b, opts)
}

// join joins what the images prove with what CRIU was told.
func join(a, b manifest.CheckpointOptions) manifest.CheckpointOptions {
	return manifest.CheckpointOptions{
		TCPEstablished: a.TCPEstablished || b.TCPEstablished,
		FileLocks:      a.FileLocks || b.FileLocks,
		ShellJob:       a.ShellJob || b.ShellJob,
		ExtUnixSockets: a.ExtUnixSockets || b.ExtUnixSockets,
		External:       slices.Concat(a.External, b.External),
	}
}

// openImages opens a checkpoint that somebody else made. A compressed archive is unpacked to staging.
func openImages(ctx context.Context, c *Container, staging string) (*images, error) {
	info, err := os.Stat(c.Images)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return openArchive(ctx, c.Images, staging)
	}
	im, err := openImageDir(c.Images)
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(c.Images)
	if err != nil {
		im.Close()
		return nil, err
	}
	for _, e := range entries {
		if e.IsDir() {
			c.note("the directory %s is left out: CRIU's images are files", filepath.Join(c.Images, e.Name()))
		}
	}
	return im, nil
}
