package remote

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/arcboxlabs/arcstore/manifest"
	"github.com/arcboxlabs/arcstore/store"
)

// The keys of a bucket's objects, below its prefix. All but the config's name the upload that wrote them, and are
// written once: no key ever comes to mean something else, so neither a repeated request nor a late one does harm.
const (
	configKey       = "config.json"
	indexPrefix     = "index/"
	packsPrefix     = "packs/"
	manifestsPrefix = "manifests/"
	snapshotsPrefix = "snapshots/"
	condemnedPrefix = "condemned/"
	keysPrefix      = "keys/"
	// workingSetsPrefix is that of what restores recorded, which nothing depends on.
	workingSetsPrefix = "working-sets/"
)

// uploadID names what one push, or one collection, wrote together: the Unix time in seconds when it began,
// big-endian, and eight random bytes.
type uploadID [12]byte

func newUploadID(now time.Time) uploadID {
	var u uploadID
	binary.BigEndian.PutUint32(u[:], uint32(now.Unix()))
	rand.Read(u[4:])
	return u
}

// begun returns when the upload began, by the clock of who did it.
func (u uploadID) begun() time.Time { return time.Unix(int64(binary.BigEndian.Uint32(u[:])), 0) }

// String returns the ID as 24 hexadecimal digits.
func (u uploadID) String() string { return hex.EncodeToString(u[:]) }

// MarshalText implements encoding.TextMarshaler.
func (u uploadID) MarshalText() ([]byte, error) { return []byte(u.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (u *uploadID) UnmarshalText(b []byte) (err error) {
	*u, err = parseUploadID(string(b))
	return err
}

func parseUploadID(s string) (uploadID, error) {
	var u uploadID
	if len(s) != 2*len(u) || strings.ToLower(s) != s {
		return u, fmt.Errorf("%q is no upload", s)
	}
	if _, err := hex.Decode(u[:], []byte(s)); err != nil {
		return u, fmt.Errorf("%q is no upload", s)
	}
	return u, nil
}

// part is an object that snapshots consist of: a pack or a manifest, by the upload that wrote it.
type part struct {
	upload uploadID
	kind   string // packsPrefix or manifestsPrefix
	name   [32]byte
}

func packPart(u uploadID, id store.PackID) part       { return part{u, packsPrefix, id} }
func manifestPart(u uploadID, d manifest.Digest) part { return part{u, manifestsPrefix, d} }

// key returns the object's key: packs/UPLOAD/ID or manifests/UPLOAD/DIGEST.
func (p part) key() string { return p.kind + p.upload.String() + "/" + hex.EncodeToString(p.name[:]) }

// parsePart is the inverse of key.
func parsePart(key string) (part, error) {
	for _, kind := range []string{packsPrefix, manifestsPrefix} {
		rest, ok := strings.CutPrefix(key, kind)
		if !ok {
			continue
		}
		upload, name, _ := strings.Cut(rest, "/")
		u, err := parseUploadID(upload)
		if err != nil {
			return part{}, err
		}
		id, err := store.ParsePackID(name)
		return part{u, kind, id}, err
	}
	return part{}, errors.New("it is neither a pack nor a manifest")
}

func indexKey(u uploadID) string     { return indexPrefix + u.String() }
func slotKey(id string) string       { return keysPrefix + id }
func condemnedKey(u uploadID) string { return condemnedPrefix + u.String() }

// snapshotKey returns the key of a snapshot's object: snapshots/ID/UPLOAD. A snapshot that was deleted and is pushed
// again gets another one.
func snapshotKey(id string, u uploadID) string { return snapshotsPrefix + id + "/" + u.String() }

func parseSnapshotKey(key string) (id string, u uploadID, err error) {
	rest, ok := strings.CutPrefix(key, snapshotsPrefix)
	id, upload, _ := strings.Cut(rest, "/")
	if !ok || manifest.ValidID(id) != nil {
		return "", u, fmt.Errorf("%q is no snapshot", key)
	}
	u, err = parseUploadID(upload)
	return id, u, err
}
