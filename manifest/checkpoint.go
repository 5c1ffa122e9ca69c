package manifest

import (
	"encoding/json"
	"errors"
	"fmt"
	"unicode/utf8"
)

const (
	// CheckpointStream is the name of the stream that holds a Checkpoint.
	CheckpointStream = "checkpoint.json"
	// CRIUPrefix begins the names of the streams that are CRIU's image files.
	CRIUPrefix = "criu/"
	// ArchivePrefix begins the names of the streams that are an archive's other members.
	ArchivePrefix = "archive/"
	// MaxCheckpointSize bounds the encoding of a Container, in bytes.
	MaxCheckpointSize = 64 << 20

	checkpointVersion = 1
)

// Checkpoint describes a checkpoint of processes: what was captured, as CRIU's
// images tell it, and what a restore must repeat. The images are streams of
// their own, under CRIUPrefix.
type Checkpoint struct {
	Format  int               `json:"format"`         // set by Encode
	Engine  string            `json:"engine"`         // who made the checkpoint: "criu", "runc", "podman", "cri-o", "containerd", or what the archive says
	Name    string            `json:"name,omitempty"` // the engine's name or ID of the container
	Image   string            `json:"image,omitempty"`
	CRIU    string            `json:"criu_version,omitempty"`
	Options CheckpointOptions `json:"options"`

	Processes []Process  `json:"processes"` // the root of the tree first
	Files     []OpenFile `json:"open_files"`
	Sockets   []Socket   `json:"sockets"`
}

// OfRuntime reports whether a container runtime made the checkpoint: the processes come back through one alone then.
func (c *Checkpoint) OfRuntime() bool { return c.Engine != "criu" }

// OwnPIDs reports whether the processes have a PID namespace of their own, where
// their IDs are free. Without one, they come back with the IDs that they had on the machine.
func (c *Checkpoint) OwnPIDs() bool { return len(c.Processes) > 0 && c.Processes[0].PID == 1 }

// CheckpointOptions are choices of a checkpoint that its restore must repeat.
type CheckpointOptions struct {
	TCPEstablished bool     `json:"tcp_established,omitempty"`
	FileLocks      bool     `json:"file_locks,omitempty"`
	ShellJob       bool     `json:"shell_job,omitempty"`
	ExtUnixSockets bool     `json:"ext_unix_sockets,omitempty"`
	External       []string `json:"external,omitempty"` // as CRIU's --external
}

// Process is one process of a checkpoint.
type Process struct {
	PID     int    `json:"pid"` // in its own PID namespace
	Parent  int    `json:"ppid"`
	Group   int    `json:"pgid"`
	Session int    `json:"sid"`
	Name    string `json:"name"`            // as the kernel's comm: at most 15 bytes
	State   string `json:"state,omitempty"` // "running", "stopped" or "zombie"
	Threads int    `json:"threads"`
	Mapped  int64  `json:"mapped_bytes"` // of address space
	Memory  int64  `json:"memory_bytes"` // in the images
}

// OpenFile is one file descriptor of a process that is not a socket.
type OpenFile struct {
	PID  int    `json:"pid"`
	FD   int    `json:"fd"`
	Type string `json:"type"` // "file", "pipe", "fifo", "eventfd", "epoll", "tty", ...
	Path string `json:"path,omitempty"`
}

// Socket is one file descriptor of a process that is a socket.
type Socket struct {
	PID    int    `json:"pid"`
	FD     int    `json:"fd"`
	Family string `json:"family"`           // "inet", "inet6", "unix", "netlink", "packet"
	Type   string `json:"type"`             // "stream", "dgram", ...
	State  string `json:"state,omitempty"`  // "listen", "established", ...
	Local  string `json:"local,omitempty"`  // address:port, or a path
	Remote string `json:"remote,omitempty"` // likewise
}

// checkText refuses what JSON would not give back as it was.
func (c *Checkpoint) checkText() error {
	texts := append([]string{c.Engine, c.Name, c.Image, c.CRIU}, c.Options.External...)
	for _, p := range c.Processes {
		texts = append(texts, p.Name, p.State)
	}
	for _, f := range c.Files {
		texts = append(texts, f.Type, f.Path)
	}
	for _, s := range c.Sockets {
		texts = append(texts, s.Family, s.Type, s.State, s.Local, s.Remote)
	}
	for _, text := range texts {
		if !utf8.ValidString(text) {
			return errors.New("a name in it is not UTF-8")
		}
	}
	return nil
}

// Encode returns the description as the stream CheckpointStream holds it.
func (c *Checkpoint) Encode() ([]byte, error) {
	if err := c.checkText(); err != nil {
		return nil, fmt.Errorf("manifest: %w checkpoint: %w", ErrInvalid, err)
	}
	versioned := *c
	versioned.Format = checkpointVersion
	b, err := json.Marshal(versioned)
	if err != nil {
		return nil, fmt.Errorf("manifest: %w checkpoint: %w", ErrInvalid, err)
	}
	if len(b) > MaxCheckpointSize {
		return nil, fmt.Errorf("manifest: %w checkpoint: its description has more than %d bytes", ErrInvalid, MaxCheckpointSize)
	}
	return b, nil
}

// DecodeCheckpoint is the inverse of Encode.
func DecodeCheckpoint(b []byte) (*Checkpoint, error) {
	c := &Checkpoint{}
	if err := decodeDescription(b, CheckpointStream, MaxCheckpointSize, checkpointVersion, c); err != nil {
		return nil, err
	}
	return c, nil
}
