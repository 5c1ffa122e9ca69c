package manifest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"math"
	"path/filepath"
	"strings"

	"github.com/arcboxlabs/arcstore/store/crypt"
	"github.com/arcboxlabs/arcstore/store/disk"
)

// A WorkingSet lists the pages of guest memory that were touched first after a restore, in that order: what the next
// restore does well to have ready before it is asked.
type WorkingSet struct {
	Size  int64    // of the memory, bytes
	Pages []uint32 // numbers of pages of 4 KiB, each once
}

const (
	workingSetMagic   = "ARCSWSET"
	workingSetVersion = 1
	workingSetHead    = 8 + 4 + 8 + 4
	workingSetPage    = 4096
	// maxWorkingSetPages bounds the pages of a working set: 16 GiB.
	maxWorkingSetPages = 4 << 20
	// maxWorkingSet bounds its encoding, in bytes.
	maxWorkingSet = workingSetHead + 5*maxWorkingSetPages + 4
)

// Encode returns the bytes of the working set's file: magic, version (4), size (8), number of pages (4), then for each page the
// difference of its number to the one before as a zigzag varint, and a CRC-32C of all that.
func (w *WorkingSet) Encode() ([]byte, error) {
	if w.Size < 0 || w.Size > math.MaxUint32*workingSetPage || len(w.Pages) > maxWorkingSetPages {
		return nil, fmt.Errorf("manifest: %w working set: it has %d pages of a memory of %d bytes", ErrInvalid, len(w.Pages), w.Size)
	}
	le := binary.LittleEndian
	b := append([]byte(nil), workingSetMagic...)
	b = le.AppendUint32(b, workingSetVersion)
	b = le.AppendUint64(b, uint64(w.Size))
	b = le.AppendUint32(b, uint32(len(w.Pages)))
	last := int64(0)
	for _, page := range w.Pages {
		b = binary.AppendVarint(b, int64(page)-last)
		last = int64(page)
	}
	b = le.AppendUint32(b, crc32.Checksum(b, crcTable))
	if _, err := DecodeWorkingSet(b); err != nil {
		return nil, err
	}
	return b, nil
}

// DecodeWorkingSet is the inverse of Encode.
func DecodeWorkingSet(b []byte) (*WorkingSet, error) {
	corrupt := func(why string) error { return &CorruptError{File: "working set", Why: why} }
	le := binary.LittleEndian
	if len(b) < workingSetHead+4 || len(b) > maxWorkingSet || string(b[:8]) != workingSetMagic {
		return nil, corrupt("it is none")
	}
	if le.Uint32(b[len(b)-4:]) != crc32.Checksum(b[:len(b)-4], crcTable) {
		return nil, corrupt("it has a wrong checksum")
	}
	if v := le.Uint32(b[8:]); v != workingSetVersion {
		return nil, fmt.Errorf("manifest: working set: %w: it has version %d, this program knows %d", ErrVersion, v, workingSetVersion)
	}
	w := &WorkingSet{Size: int64(le.Uint64(b[12:]))}
	n := int(le.Uint32(b[20:]))
	body := b[workingSetHead : len(b)-4]
	if w.Size < 0 || w.Size > math.MaxUint32*workingSetPage || n > len(body) {
		return nil, corrupt("it counts more than it can hold")
	}
	pages := chunks(w.Size, workingSetPage)
	w.Pages = make([]uint32, n)
	seen := make(map[uint32]bool, n)
	last := int64(0)
	for i := range w.Pages {
		delta, k := binary.Varint(body)
		last += delta
		if k <= 0 || last < 0 || last >= pages || seen[uint32(last)] {
			return nil, corrupt("it names a page twice, or one that cannot be")
		}
		seen[uint32(last)] = true
		w.Pages[i] = uint32(last)
		body = body[k:]
	}
	if len(body) != 0 {
		return nil, corrupt("it is too long")
	}
	return w, nil
}

// WorkingSets is the directory that holds the working sets of a store's snapshots, each under the snapshot's ID. Nothing depends
// on them: one that is lost, or damaged, is recorded again. It is safe for concurrent use, also by several processes.
type WorkingSets struct {
	dir  string
	disk disk.Disk
	seal *crypt.Sealer // nil in a store without encryption
}

// OpenWorkingSets returns the working sets in dir, which need not exist yet, on a disk, nil for the operating system's, of a store
// with a key, nil for one that is not encrypted.
func OpenWorkingSets(dir string, d disk.Disk, key *crypt.Key) *WorkingSets {
	return &WorkingSets{dir, orOS(d), key.Sealer("working set")}
}

func (w *WorkingSets) path(id string) string { return filepath.Join(w.dir, id) }

// Get returns the working set of a snapshot: ErrNotFound where there is none, or none that can be read.
func (w *WorkingSets) Get(ctx context.Context, id string) (*WorkingSet, error) {
	b, err := w.File(ctx, id)
	if err != nil {
		return nil, err
	}
	s, err := w.decode(id, b)
	if errors.Is(err, ErrCorrupt) {
		err = fmt.Errorf("%w: %w", ErrNotFound, err)
	}
	return s, err
}

// Put keeps the working set of a snapshot, in place of the one there was.
func (w *WorkingSets) Put(ctx context.Context, id string, s *WorkingSet) error {
	b, err := w.Encode(id, s)
	if err != nil {
		return err
	}
	return w.write(id, b)
}

// Encode returns the file that Put would write.
func (w *WorkingSets) Encode(id string, s *WorkingSet) ([]byte, error) {
	b, err := s.Encode()
	if err != nil {
		return nil, err
	}
	return w.seal.Seal(nil, b, id), nil
}

func (w *WorkingSets) decode(id string, b []byte) (*WorkingSet, error) {
	b, err := w.seal.Open(nil, b, id)
	if err != nil {
		return nil, &CorruptError{File: "working set " + id, Why: err.Error()}
	}
	return DecodeWorkingSet(b)
}

// File returns a working set's file: ErrNotFound.
func (w *WorkingSets) File(ctx context.Context, id string) ([]byte, error) {
	if err := errors.Join(ValidID(id), ctx.Err()); err != nil {
		return nil, err
	}
	b, err := disk.ReadFile(w.disk, w.path(id), maxWorkingSet+crypt.Overhead)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, disk.ErrTooLarge) {
		return nil, fmt.Errorf("manifest: working set of %s: %w", id, ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("manifest: working set of %s: %w", id, err)
	}
	return b, nil
}

// Import keeps a file that another store's File returned, if that store has the same key.
func (w *WorkingSets) Import(ctx context.Context, id string, b []byte) error {
	if err := errors.Join(ValidID(id), ctx.Err()); err != nil {
		return err
	}
	if _, err := w.decode(id, b); err != nil {
		return err
	}
	return w.write(id, b)
}

func (w *WorkingSets) write(id string, b []byte) error {
	if err := disk.MakeDir(w.disk, w.dir); err != nil {
		return fmt.Errorf("manifest: working set of %s: %w", id, err)
	}
	if err := disk.WriteFile(w.disk, w.path(id), b, false); err != nil {
		return fmt.Errorf("manifest: working set of %s: %w", id, err)
	}
	return nil
}

// Keep removes all working sets but those of these snapshots, and what writers left behind.
func (w *WorkingSets) Keep(ctx context.Context, ids map[string]bool) error {
	entries, err := w.disk.ReadDir(w.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("manifest: working sets: %w", err)
	}
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		if ids[e.Name()] || strings.HasPrefix(e.Name(), disk.TempPrefix) {
			continue
		}
		if err := w.disk.Remove(w.path(e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("manifest: working sets: %w", err)
		}
	}
	if _, err := disk.RemoveTemporary(w.disk, w.dir); err != nil {
		return fmt.Errorf("manifest: working sets: %w", err)
	}
	return nil
}
