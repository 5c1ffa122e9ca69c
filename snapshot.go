package arcstore

import (
	"time"

	"github.com/arcboxlabs/arcstore/capture"
	"github.com/arcboxlabs/arcstore/chunker"
	"github.com/arcboxlabs/arcstore/manifest"
	"github.com/arcboxlabs/arcstore/store/control"
)

// A Snapshot is the state of a target at one moment, as the catalogue lists it.
type Snapshot = manifest.Entry

// The parts of a machine's state that are not bytes of a stream.
type (
	Machine = manifest.Machine
	Region  = manifest.Region
	VCPU    = manifest.VCPU
	Device  = manifest.Device
)

// Source is what snapshots are taken of: random-access bytes of a fixed size.
// ReadAt is called from several goroutines at once.
type Source = chunker.Source

// A VM is what CreateVM snapshots: its memory, its machine state, further state files.
type VM = capture.VM

// A Container is what CreateContainer checkpoints: a process tree, a container of runc's, or images that somebody else made.
type Container = capture.Container

// Values of CreateOptions.Parent besides a snapshot's ID, prefix or TARGET@latest.
const (
	ParentLatest = "latest" // the target's newest ready snapshot, or none if it has none
	ParentNone   = "none"   // a snapshot that stands alone
)

// CreateOptions are the choices of a create; nil or the zero value is a
// snapshot without a name whose parent is the target's latest.
type CreateOptions struct {
	// Parent is ParentLatest (also when empty), ParentNone, or a snapshot of any target.
	Parent string
	// Dirty has one bit for each 4 KiB page of Memory, lowest bit of the
	// first byte first; 1 means that the page may differ from Parent's. It
	// demands an explicit Parent, and ceil(pages/8) bytes, rounded up to
	// whole 64-bit words or not.
	Dirty []byte
	// CleanSample: one in so many pages that Dirty calls clean is compared
	// with the parent's all the same. 0 means 1,000; negative means none.
	CleanSample int

	Name        string
	Description string
	Labels      map[string]string
	// Progress is called from one goroutine at a time; nil for none.
	Progress func(Progress)

	id      string // of one that is imported; "" for a new one
	created time.Time

	preCopied *preCopied
	dedup     *Dedup // nil where nobody wants to know
}

// ahead returns the memory as it was read while its guest ran; nil where it was not.
func (o *CreateOptions) ahead() *capture.Ahead {
	if o.preCopied == nil {
		return nil
	}
	return o.preCopied.ahead
}

// Progress says how far an operation has come, in bytes.
type Progress = control.Progress

// RestoreOptions are the choices of a restore to files.
type RestoreOptions struct {
	// Force lets files of the same names in the output directory be replaced.
	Force bool `json:"force,omitempty"`
	// Stream restores just this one; "" for all.
	Stream string `json:"stream,omitempty"`
	// AllowDamaged restores what can be had of a damaged snapshot: the rest
	// reads as zeros and is listed in the report. Without it, the first thing that cannot be had is an error.
	AllowDamaged bool           `json:"allow_damaged,omitempty"`
	Progress     func(Progress) `json:"-"`
}

// RestoreReport says what a restore did.
type RestoreReport struct {
	Snapshot   string        `json:"snapshot"`
	Streams    int           `json:"streams"`
	Bytes      int64         `json:"bytes"`       // size of what was restored, holes included
	BytesData  int64         `json:"bytes_data"`  // bytes written
	FramesRead int64         `json:"frames_read"` // frames fetched from packs
	Missing    []Missing     `json:"missing,omitempty"`
	Duration   time.Duration `json:"duration_ns"`
}

// Missing is a range of a stream that could not be restored and reads as zeros.
type Missing struct {
	Stream string `json:"stream"`
	Offset int64  `json:"offset"` // bytes
	Length int64  `json:"length"` // bytes
	Why    string `json:"why"`
}

// PruneOptions are the choices of a prune.
type PruneOptions struct {
	// Target limits the prune to one target; "" means every target, each by itself.
	Target string `json:"target,omitempty"`
	DryRun bool   `json:"dry_run,omitempty"`
}

// PruneReport lists every snapshot that a prune considered and why it stays or goes.
type PruneReport struct {
	DryRun    bool       `json:"dry_run"`
	Decisions []Decision `json:"decisions"`
	Kept      int        `json:"kept"`
	Removed   int        `json:"removed"`
}

// GCOptions are the choices of a garbage collection.
type GCOptions struct {
	DryRun   bool           `json:"dry_run,omitempty"`
	Progress func(Progress) `json:"-"`
}

// GCReport says what a garbage collection freed, or with DryRun would.
type GCReport struct {
	DryRun            bool          `json:"dry_run"`
	Snapshots         int           `json:"snapshots"`         // live ones that were marked
	SnapshotsDamaged  int           `json:"snapshots_damaged"` // of these
	ChunksLive        int64         `json:"chunks_live"`       // distinct
	PacksDeleted      int           `json:"packs_deleted"`     // dead, rewritten or merged
	PacksWritten      int           `json:"packs_written"`     // by rewriting
	ChunksMoved       int64         `json:"chunks_moved"`      // by rewriting
	BytesFreed        int64         `json:"bytes_freed"`       // net, all kinds of files
	BytesRewritten    int64         `json:"bytes_rewritten"`
	ManifestsDeleted  int           `json:"manifests_deleted"`
	LeftoversDeleted  int           `json:"leftovers_deleted"`    // of interrupted operations
	NoRoom            bool          `json:"no_room"`              // the disk was too full to lay together all that is scattered
	FramesPerMiBWorst float64       `json:"frames_per_mib_worst"` // after, over all live snapshots
	Duration          time.Duration `json:"duration_ns"`
}

// VerifyOptions are the choices of a verification.
type VerifyOptions struct {
	// Snapshots limits it to these; none means the whole store.
	Snapshots []string `json:"snapshots,omitempty"`
	// Data reads and verifies every chunk; without it, only that the tables
	// are sound and that every chunk is there.
	Data bool `json:"data,omitempty"`
	// Percent limits Data to so much of the packs' bytes, the packs first that were verified longest ago:
	// 10 each night has read everything after ten. 0 means all.
	Percent  float64        `json:"percent,omitempty"`
	Progress func(Progress) `json:"-"`
}

// VerifyReport says what was checked and what is wrong.
type VerifyReport struct {
	Snapshots int           `json:"snapshots"`
	Packs     int           `json:"packs"`
	Chunks    int64         `json:"chunks"`
	BytesRead int64         `json:"bytes_read"`
	Coverage  Coverage      `json:"coverage"`
	Damage    []Damage      `json:"damage"`
	Unnoted   string        `json:"unnoted,omitempty"` // why something could not be written down in the store
	Duration  time.Duration `json:"duration_ns"`
}

// Coverage says how much of the packs' data verifications have read.
type Coverage struct {
	Packs int        `json:"packs"`           // that this one read
	Bytes int64      `json:"bytes"`           // of these
	Total int64      `json:"bytes_total"`     // of all packs that it was to verify
	Never int64      `json:"bytes_never"`     // of packs that none has read so far
	Since *time.Time `json:"since,omitempty"` // all others were read since then
}

// Damage is one thing that verification found wrong.
type Damage struct {
	What      string   `json:"what"`                // the file
	Why       string   `json:"why"`                 // in words
	Snapshots []string `json:"snapshots,omitempty"` // the IDs of those that it affects
}

// DiffReport compares two snapshots, stream by stream.
type DiffReport struct {
	A       string       `json:"a"`
	B       string       `json:"b"`
	Streams []StreamDiff `json:"streams"`
}

// StreamDiff compares one stream of two snapshots; lengths in bytes.
type StreamDiff struct {
	Name    string `json:"name"`
	SizeA   int64  `json:"size_a"`  // -1 where A lacks the stream
	SizeB   int64  `json:"size_b"`  // -1 where B lacks the stream
	Same    int64  `json:"same"`    // equal and not a hole
	Changed int64  `json:"changed"` // data in both, but different
	Added   int64  `json:"added"`   // a hole or nothing in A, data in B
	Removed int64  `json:"removed"` // data in A, a hole or nothing in B
}

// Stats describes the store as a whole.
type Stats struct {
	StoreID       string `json:"store_id"`
	FormatVersion int    `json:"format_version"`
	Encrypted     bool   `json:"encrypted"`
	ChunkSize     int    `json:"chunk_size"`
	Compression   string `json:"compression"`

	Snapshots int   `json:"snapshots"`
	Targets   int   `json:"targets"`
	Logical   int64 `json:"logical_bytes"` // sum of the ready snapshots' sizes
	Data      int64 `json:"data_bytes"`    // of that, what is not holes

	Packs          int   `json:"packs"`
	PackBytes      int64 `json:"pack_bytes"`
	Chunks         int64 `json:"chunks"`      // in packs, dead ones included
	ChunkBytes     int64 `json:"chunk_bytes"` // the same, uncompressed
	ManifestBytes  int64 `json:"manifest_bytes"`
	IndexBytes     int64 `json:"index_bytes"`
	CatalogueBytes int64 `json:"catalogue_bytes"`

	// Fragmentation lists, for every ready snapshot, what restoring it reads.
	Fragmentation []Fragmentation `json:"fragmentation"`
}

// Fragmentation says how scattered a snapshot's chunks lie.
type Fragmentation struct {
	Snapshot     string  `json:"snapshot"`
	TargetID     string  `json:"target_id"`
	Packs        int     `json:"packs"`          // that hold its chunks
	Frames       int64   `json:"frames"`         // distinct frames that a restore reads
	FramesPerMiB float64 `json:"frames_per_mib"` // per MiB of data restored; 16 is ideal for 64 KiB frames
}
