package arcstore

import (
	"net/http"
	"syscall"

	"github.com/arcboxlabs/arcstore/capture"
	"github.com/arcboxlabs/arcstore/store/control"
)

// The bodies of requests to the process that holds a store, where the options of the operation do not say it all.
type (
	// PruneRequest asks for a prune.
	PruneRequest struct {
		PruneOptions
		Keep     Retention `json:"keep"`
		TimeZone string    `json:"time_zone,omitempty"` // whose hours and days count, such as Europe/Berlin; "" is the server's
	}
	// RestoreRequest asks for a restore to files.
	RestoreRequest struct {
		RestoreOptions
		Snapshot string `json:"snapshot"`
		Output   string `json:"output"` // absolute path of a directory
	}
	// TransferRequest asks for a push or a pull.
	TransferRequest struct {
		Remote    string   `json:"remote,omitempty"`    // "" is the only one
		Snapshots []string `json:"snapshots,omitempty"` // none is all, of a push
		Limit     int64    `json:"limit,omitempty"`     // bytes a second; 0 is none
	}
	// RepairRequest asks for a repair from a remote.
	RepairRequest struct {
		VerifyOptions
		Remote string `json:"remote,omitempty"`
	}
	// ImportRequest asks for an import of the predecessor's snapshots.
	ImportRequest struct {
		ImportOptions
		Directory string `json:"directory"` // absolute path
	}
	// KeyRequest asks for a secret to open the store: one of Passphrase and KeyFile.
	KeyRequest struct {
		Passphrase string `json:"passphrase,omitempty"`
		KeyFile    string `json:"key_file,omitempty"` // the text of one
		Label      string `json:"label,omitempty"`
	}
)

// Info says what a store is, and who holds it.
type Info struct {
	StoreID       string `json:"store_id"`
	FormatVersion int    `json:"format_version"`
	ChunkSize     int    `json:"chunk_size"`
	Compression   string `json:"compression"`
	Encrypted     bool   `json:"encrypted"`
	PID           int    `json:"pid"`
	Holder        string `json:"holder"`
}

// InfoChange asks for another configuration.
type InfoChange struct {
	Compression string `json:"compression"` // of new frames
}

// ErrorKinds are the names by which errors are known over the control socket; they never change.
var ErrorKinds = control.Kinds{
	{Name: "bad_request", Err: control.ErrRequest, Status: http.StatusBadRequest},
	{Name: "no_such_request", Err: control.ErrNoSuch, Status: http.StatusNotFound},
	{Name: "cancelled", Err: control.ErrCancelled, Status: http.StatusConflict},
	{Name: "no_job", Err: control.ErrNoJob, Status: http.StatusNotFound},
	{Name: "stopping", Err: ErrStopping, Status: http.StatusServiceUnavailable},
	{Name: "ambiguous", Err: ErrAmbiguous, Status: http.StatusBadRequest},
	{Name: "no_remote", Err: ErrNoRemote, Status: http.StatusBadRequest},
	{Name: "no_schedule", Err: ErrNoSchedule, Status: http.StatusNotFound},
	{Name: "not_found", Err: ErrNotFound, Status: http.StatusNotFound},
	{Name: "no_stream", Err: ErrNoStream, Status: http.StatusNotFound},
	{Name: "no_process", Err: ErrNoProcess, Status: http.StatusNotFound},
	{Name: "incompatible", Err: ErrIncompatible, Status: http.StatusConflict},
	{Name: "other_kind", Err: ErrOtherKind, Status: http.StatusBadRequest},
	{Name: "invalid", Err: ErrInvalid, Status: http.StatusBadRequest},
	{Name: "invalid", Err: capture.ErrInvalid, Status: http.StatusBadRequest},
	{Name: "dirty_bitmap", Err: ErrDirtyBitmap, Status: http.StatusConflict},
	{Name: "exists", Err: ErrExists, Status: http.StatusConflict},
	{Name: "not_ready", Err: ErrNotReady, Status: http.StatusConflict},
	{Name: "read_only", Err: ErrReadOnly, Status: http.StatusConflict},
	{Name: "locked", Err: ErrLocked, Status: http.StatusForbidden},
	{Name: "wrong_secret", Err: ErrWrongSecret, Status: http.StatusForbidden},
	{Name: "key_file", Err: ErrKeyFile, Status: http.StatusBadRequest},
	{Name: "plain", Err: ErrPlain, Status: http.StatusConflict},
	{Name: "in_use", Err: ErrInUse, Status: http.StatusConflict},
	{Name: "version", Err: ErrVersion, Status: http.StatusInternalServerError},
	{Name: "corrupt", Err: ErrCorrupt, Status: http.StatusInternalServerError},
	{Name: "no_space", Err: syscall.ENOSPC, Status: http.StatusInsufficientStorage},
	{Name: "quota", Err: syscall.EDQUOT, Status: http.StatusInsufficientStorage},
	{Name: "read_only_disk", Err: syscall.EROFS, Status: http.StatusInternalServerError},
}
