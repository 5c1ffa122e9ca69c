package remote

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// maxRecord bounds a record of condemned parts, in bytes.
const maxRecord = 256 << 20

// record names parts that no snapshot needed when a collection looked. From then on they are dead: nobody may come
// to rely on them, and a later collection deletes those that still no snapshot needs. Nothing revives them.
type record struct {
	Time time.Time `json:"time"`
	// Uploads are dead as a whole, whatever is found or comes yet of them.
	Uploads []uploadID `json:"uploads,omitempty"`
	// Unfinished are dead uploads that have no index object. Whoever made one may wake up any
	// time and write it: they are never forgotten.
	Unfinished []uploadID `json:"unfinished,omitempty"`
	// Parts are the keys of dead parts of uploads that live on.
	Parts []string `json:"parts,omitempty"`
	// Snapshots are the keys of snapshots that somebody is about to delete. A deletion that seems to have failed may
	// still be done, so whoever pushes one of these again gives it another key.
	Snapshots []string `json:"snapshots,omitempty"`
}

func (r *record) empty() bool {
	return len(r.Uploads)+len(r.Unfinished)+len(r.Parts)+len(r.Snapshots) == 0
}

// dead is all that records name.
type dead struct {
	uploads map[uploadID]bool
	keys    map[string]bool // of parts and snapshots
}

func newDead() *dead { return &dead{make(map[uploadID]bool), make(map[string]bool)} }

func (d *dead) add(r *record) {
	for _, u := range slices.Concat(r.Uploads, r.Unfinished) {
		d.uploads[u] = true
	}
	for _, key := range slices.Concat(r.Parts, r.Snapshots) {
		d.keys[key] = true
	}
}

func (d *dead) has(p part) bool { return d.uploads[p.upload] || (len(d.keys) > 0 && d.keys[p.key()]) }

// records reads all records, by key.
func (r *Remote) records(ctx context.Context) (map[string]*record, error) {
	for again := 0; ; again++ {
		keys, err := r.list(ctx, condemnedPrefix)
		if err != nil {
			return nil, fmt.Errorf("remote: list what is condemned: %w", err)
		}
		records := make(map[string]*record, len(keys))
		err = r.cache.each(ctx, r.bucket, keys, maxRecord, func(key string, b []byte) error {
			rec := &record{}
			if err := r.sealer.unsealJSON(key, b, rec); err != nil {
				return err
			}
			records[key] = rec
			return nil
		})
		if errors.Is(err, ErrNoObject) && again < 10 {
			continue // what it said is in another one now
		}
		if err == nil {
			r.cache.keep(condemnedPrefix, keys)
		}
		return records, err
	}
}

// condemn writes a record.
func (r *Remote) condemn(ctx context.Context, rec *record) error {
	key := condemnedKey(newUploadID(r.now()))
	b, err := r.sealer.sealJSON(key, rec)
	if err != nil {
		return err
	}
	return r.put(ctx, key, b)
}

// list returns the keys below prefix.
func (r *Remote) list(ctx context.Context, prefix string) ([]string, error) {
	var keys []string
	err := r.bucket.List(ctx, prefix, func(o Object) error {
		if !strings.HasSuffix(o.Key, "/") { // some tools make objects that stand for directories
			keys = append(keys, o.Key)
		}
		return nil
	})
	return keys, err
}
