package store

import (
	"encoding/binary"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"github.com/arcboxlabs/arcstore/store/disk"
)

// turns says when each pack was last verified, or, of those that never were, first seen:
// whose turn it is longest is verified next. It is the file verified, which may be lost: then all turns begin anew.
type turns map[PackID]turn

type turn struct {
	at   int64 // Unix time, nanoseconds
	read bool  // verified then, and not only seen
}

const (
	turnsName     = "verified"
	turnsMagic    = "arcturns"
	turnsVersion  = 1
	turnsHeadSize = 16
	turnSize      = 48
	maxTurns      = 16 << 20 // packs: 256 TiB of full ones
)

// loadTurns reads the file in dir. A missing or damaged one is as good as an
// empty one, and so is a time that is yet to come.
func loadTurns(d disk.Disk, dir string) turns {
	t := turns{}
	b, err := disk.ReadFile(d, filepath.Join(dir, turnsName), turnsHeadSize+maxTurns*turnSize+4)
	if err == nil {
		t, err = decodeTurns(b)
	}
	if err != nil {
		return turns{}
	}
	now := time.Now().UnixNano()
	maps.DeleteFunc(t, func(_ PackID, x turn) bool { return x.at > now })
	return t
}

// encode returns the file's bytes: magic, version, number of packs; ID, time and what it is of each; checksum of it all.
func (t turns) encode() []byte {
	b := append([]byte(nil), turnsMagic...)
	b = binary.LittleEndian.AppendUint32(b, turnsVersion)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(t)))
	for _, id := range slices.SortedFunc(maps.Keys(t), comparePacks) {
		b = append(b, id[:]...)
		b = binary.LittleEndian.AppendUint64(b, uint64(t[id].at))
		read := uint64(0)
		if t[id].read {
			read = 1
		}
		b = binary.LittleEndian.AppendUint64(b, read)
	}
	return binary.LittleEndian.AppendUint32(b, checksum(b))
}

func decodeTurns(b []byte) (turns, error) {
	le := binary.LittleEndian
	bad := fmt.Errorf("store: %s: %w", turnsName, ErrCorrupt)
	if len(b) < turnsHeadSize+4 || string(b[:8]) != turnsMagic || le.Uint32(b[8:]) != turnsVersion || le.Uint32(b[len(b)-4:]) != checksum(b[:len(b)-4]) {
		return nil, bad
	}
	n := int64(le.Uint32(b[12:]))
	if int64(len(b)) != turnsHeadSize+n*turnSize+4 {
		return nil, bad
	}
	t := make(turns, n)
	for e := b[turnsHeadSize : len(b)-4]; len(e) > 0; e = e[turnSize:] {
		read := le.Uint64(e[40:])
		if read > 1 {
			return nil, bad
		}
		t[PackID(e)] = turn{int64(le.Uint64(e[32:])), read == 1}
	}
	if int64(len(t)) != n {
		return nil, bad
	}
	return t, nil
}

// choose returns the packs whose turn it is longest, of at least percent of
// the bytes of sizes. Packs that it has not seen wait from now on.
func (t turns) choose(sizes map[PackID]int64, percent float64) map[PackID]bool {
	now := time.Now().UnixNano()
	total := int64(0)
	for id, size := range sizes {
		total += size
		if _, ok := t[id]; !ok {
			t[id] = turn{at: now}
		}
	}
	ids := slices.SortedFunc(maps.Keys(sizes), func(a, b PackID) int {
		if x, y := t[a].at, t[b].at; x != y {
			return int(min(1, max(-1, x-y)))
		}
		return comparePacks(a, b)
	})
	chosen := make(map[PackID]bool)
	left := percent / 100 * float64(total)
	for _, id := range ids {
		if left <= 0 {
			break
		}
		chosen[id] = true
		left -= float64(sizes[id])
	}
	return chosen
}

// took notes that a pack was verified.
func (t turns) took(id PackID) { t[id] = turn{time.Now().UnixNano(), true} }

// covered returns the bytes of those packs that were never verified, and the
// oldest verification of the others.
func (t turns) covered(sizes map[PackID]int64) (never int64, since time.Time) {
	for id, size := range sizes {
		x := t[id]
		if !x.read {
			never += size
		} else if at := time.Unix(0, x.at); since.IsZero() || at.Before(since) {
			since = at
		}
	}
	return never, since
}

// save writes what is said of packs, which are all there are.
func (t turns) save(d disk.Disk, dir string, packs map[PackID]int64) error {
	if packs != nil {
		maps.DeleteFunc(t, func(id PackID, _ turn) bool { _, ok := packs[id]; return !ok })
	}
	if err := writeNote(d, filepath.Join(dir, turnsName), t.encode()); err != nil {
		return fmt.Errorf("store: note what was verified: %w", err)
	}
	return nil
}
