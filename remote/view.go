package remote

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/zeebo/blake3"

	"github.com/arcboxlabs/arcstore/manifest"
	"github.com/arcboxlabs/arcstore/store"
)

// view is what was found in the bucket at one time.
//
// The order in which it is read is what makes it safe to rely on. An index object stays for as long as a record names
// one of its parts, or longer, and records are read before index objects: a part that an index object names and no
// record does was not condemned when the reading of records began.
type view struct {
	snapshots map[string][]string // keys by snapshot ID
	dead      *dead
	uploads   map[uploadID]*upload // tables left out, where they can be had from the cache
	packs     map[store.PackID]uploadID
	manifests map[manifest.Digest]Manifest
}

// sync brings the view up to date, and what finds chunks.
func (r *Remote) sync(ctx context.Context) error {
	v, err := r.look(ctx)
	if err != nil {
		return err
	}
	r.view = v
	chunks, err := r.chunks()
	if err != nil {
		return err
	}
	return chunks.Set(ctx, v.packIDs())
}

// look returns a view of the bucket as it is. It reads only what is new.
func (r *Remote) look(ctx context.Context) (*view, error) {
	v := &view{snapshots: make(map[string][]string), dead: newDead(), uploads: make(map[uploadID]*upload),
		packs: make(map[store.PackID]uploadID), manifests: make(map[manifest.Digest]Manifest)}
	keys, err := r.list(ctx, snapshotsPrefix)
	if err != nil {
		return nil, fmt.Errorf("remote: list snapshots: %w", err)
	}
	records, err := r.records(ctx)
	if err != nil {
		return nil, err
	}
	for _, rec := range records {
		v.dead.add(rec)
	}
	for _, key := range keys {
		if id, _, err := parseSnapshotKey(key); err == nil && !v.dead.keys[key] {
			v.snapshots[id] = append(v.snapshots[id], key)
		}
	}
	if err := r.readUploads(ctx, v); err != nil {
		return nil, err
	}
	for id, u := range v.uploads {
		v.add(id, u)
	}
	return v, nil
}

// add adds those parts of an upload that are not dead.
func (v *view) add(id uploadID, u *upload) {
	v.uploads[id] = u
	if v.dead.uploads[id] {
		return
	}
	for _, p := range u.packs {
		if !v.dead.has(packPart(id, p.id)) {
			v.packs[p.id] = id
		}
	}
	for _, m := range u.manifests {
		if !v.dead.has(manifestPart(id, m.digest)) {
			v.manifests[m.digest] = Manifest{m.digest, id, m.size}
		}
	}
}

func (v *view) packIDs() []store.PackID { return slices.Collect(maps.Keys(v.packs)) }

// readUploads reads the index objects that were not read before.
func (r *Remote) readUploads(ctx context.Context, v *view) error {
	for again := 0; ; again++ {
		keys, err := r.list(ctx, indexPrefix)
		if err != nil {
			return fmt.Errorf("remote: list uploads: %w", err)
		}
		v.uploads = make(map[uploadID]*upload, len(keys))
		var unread []string
		for _, key := range keys {
			id, err := parseUploadID(key[len(indexPrefix):])
			if err != nil {
				continue // not ours
			}
			if r.view != nil && r.view.uploads[id] != nil {
				v.uploads[id] = r.view.uploads[id]
			} else {
				unread = append(unread, key)
			}
		}
		err = r.cache.each(ctx, r.bucket, unread, maxIndex, func(key string, b []byte) error {
			u, err := decodeUpload(key, b, r.sealer)
			if err != nil {
				return err
			}
			if r.cache.dir != "" {
				for i := range u.packs {
					u.packs[i].table = nil
				}
			}
			id, _ := parseUploadID(key[len(indexPrefix):])
			v.uploads[id] = u
			return nil
		})
		if errors.Is(err, ErrNoObject) && again < 10 {
			continue // deleted meanwhile
		}
		if err == nil {
			r.cache.keep(indexPrefix, keys)
		}
		return err
	}
}

// table returns a pack's table, and the size of the pack.
func (r *Remote) table(id store.PackID) ([]byte, int64, error) {
	v := r.view
	upload := v.packs[id]
	u := v.uploads[upload]
	if u == nil {
		return nil, 0, fmt.Errorf("remote: pack %s: %w", id, ErrNoObject)
	}
	p := u.pack(id)
	if p.table != nil {
		return p.table, p.size, nil
	}
	if b := r.cache.readAt(indexKey(upload), p.offset, p.tableSize); b != nil && blake3.Sum256(b) == id {
		return b, p.size, nil
	}
	return nil, 0, fmt.Errorf("remote: the cache in %s has lost %s", r.cache.dir, indexKey(upload))
}

// lost returns the parts that nobody may rely on: those that are dead, and those of which
// no index object speaks.
func (v *view) lost(parts []part) []part {
	var lost []part
	for _, p := range parts {
		if v.uploads[p.upload] == nil || v.dead.has(p) {
			lost = append(lost, p)
		}
	}
	return lost
}
