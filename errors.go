package arcstore

import (
	"errors"
	"fmt"

	"github.com/arcboxlabs/arcstore/capture"
	"github.com/arcboxlabs/arcstore/manifest"
	"github.com/arcboxlabs/arcstore/store"
	"github.com/arcboxlabs/arcstore/store/crypt"
)

// Sentinels for errors.Is. Every error of this package that falls under one of them wraps it.
var (
	// ErrNotFound: no snapshot of that ID, prefix or target.
	ErrNotFound = errors.New("no such snapshot")
	// ErrAmbiguous: a prefix fits several snapshots.
	ErrAmbiguous = errors.New("ambiguous snapshot ID")
	// ErrNotReady: the snapshot is being created.
	ErrNotReady = errors.New("snapshot is not ready")
	// ErrNoStream: the snapshot has no stream of that name.
	ErrNoStream = errors.New("no such stream")
	// ErrExists: the restore target, or the store to be made, is there already.
	ErrExists = errors.New("exists already")
	// ErrReadOnly: the operation writes, and the store was opened with Options.ReadOnly.
	ErrReadOnly = errors.New("store is open read-only")
	// ErrInvalid: an argument cannot be right: a bitmap of the wrong length or
	// without a parent, a bad name, regions that overlap.
	ErrInvalid = errors.New("invalid argument")
	// ErrDirtyBitmap: a page that the dirty bitmap calls clean differs from the parent's.
	ErrDirtyBitmap = errors.New("dirty bitmap is wrong")
	// ErrNoProcess: no process, or no container, of that ID is there to be checkpointed.
	ErrNoProcess = capture.ErrNoProcess

	// ErrOtherKind: the snapshot is a process tree where a container of runc's was asked for, or the other way round.
	ErrOtherKind = errors.New("it comes back in another way")

	// ErrNoRemote: the store has no remote of that name, or none at all.
	ErrNoRemote = errors.New("no such remote")

	// ErrNoSchedule: the process that holds the store runs no schedule of that name.
	ErrNoSchedule = errors.New("no such schedule")

	// ErrLocked: the store, or the bucket, is encrypted, and nobody gave a secret.
	ErrLocked = crypt.ErrLocked
	// ErrWrongSecret: the passphrase or the key file does not open it.
	ErrWrongSecret = crypt.ErrWrongSecret
	// ErrKeyFile: the file is no key file.
	ErrKeyFile = crypt.ErrKeyFile
	// ErrPlain: the store, or the bucket, is not encrypted.
	ErrPlain = store.ErrPlain

	// ErrInUse: another process holds the store; a *store.InUseError says which.
	ErrInUse = store.ErrInUse
	// ErrNoStore: the directory is not a store.
	ErrNoStore = store.ErrNoStore
	// ErrVersion: the store, or a file in it, has a newer format.
	ErrVersion = store.ErrVersion
	// ErrCorrupt: data is damaged; nothing of it was returned.
	ErrCorrupt = store.ErrCorrupt
)

// wrapManifest maps the page tables' errors to this package's sentinels. A
// manifest that a catalogue entry or a child refers to and that is not there is damage.
func wrapManifest(err error) error {
	switch {
	case errors.Is(err, manifest.ErrVersion):
		return fmt.Errorf("%w: %w", ErrVersion, err)
	case errors.Is(err, manifest.ErrNotFound), errors.Is(err, manifest.ErrCorrupt):
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return err
}

// IsCorrupt reports whether err says that stored data is damaged, wherever in the store it lies.
func IsCorrupt(err error) bool {
	return errors.Is(err, store.ErrCorrupt) || errors.Is(err, manifest.ErrCorrupt)
}
