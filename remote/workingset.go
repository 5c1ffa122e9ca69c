package remote

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/zeebo/blake3"

	"github.com/arcboxlabs/arcstore/manifest"
)

// maxWorkingSet bounds the object of a working set, in bytes.
const maxWorkingSet = 32 << 20

// workingSetKey returns the key of a working set's object: working-sets/ID/UPLOAD-HASH, so that one that is recorded anew does not
// replace the one there was before it is there, and nobody need read it to see that it is the same.
func workingSetKey(id string, u uploadID, b []byte) string {
	return workingSetsPrefix + id + "/" + u.String() + "-" + workingSetHash(b)
}

func workingSetHash(b []byte) string {
	sum := blake3.Sum256(b)
	return hex.EncodeToString(sum[:8])
}

// workingSetOf returns whose working set a key is.
func workingSetOf(key string) (id string, ok bool) {
	rest, ok := strings.CutPrefix(key, workingSetsPrefix)
	id, _, more := strings.Cut(rest, "/")
	return id, ok && more && manifest.ValidID(id) == nil
}

// PutWorkingSets keeps files of working sets, by the snapshots' IDs, in place of those there were. Nothing depends on them.
func (r *Remote) PutWorkingSets(ctx context.Context, files map[string][]byte) error {
	if len(files) == 0 || r.config == nil {
		return nil
	}
	prefix := workingSetsPrefix
	for id := range files {
		if len(files) == 1 {
			prefix += id + "/"
		}
	}
	keys, err := r.list(ctx, prefix)
	if err != nil {
		return fmt.Errorf("remote: list working sets: %w", err)
	}
	var old []string
	there := make(map[string]bool)
	for _, key := range keys {
		id, ok := workingSetOf(key)
		b := files[id]
		switch {
		case !ok || b == nil:
		case strings.HasSuffix(key, "-"+workingSetHash(b)):
			there[id] = true
		default:
			old = append(old, key)
		}
	}
	for id, b := range files {
		if there[id] {
			continue
		}
		key := workingSetKey(id, newUploadID(r.now()), b)
		if err := r.bucket.Put(ctx, key, bytes.NewReader(b), int64(len(b))); err != nil && !errors.Is(err, ErrObjectExists) {
			return fmt.Errorf("remote: write %s: %w", key, err)
		}
	}
	if len(old) == 0 {
		return nil
	}
	if _, err := r.deleteFree(ctx, old); err != nil {
		return fmt.Errorf("remote: %w", err)
	}
	return nil
}

// workingSet returns the file of a snapshot's working set; nil where there is none.
func (r *Remote) workingSet(ctx context.Context, id string) ([]byte, error) {
	keys, err := r.list(ctx, workingSetsPrefix+id+"/")
	if err != nil || len(keys) == 0 {
		return nil, err
	}
	b, err := r.bucket.Read(ctx, keys[len(keys)-1], maxWorkingSet) // the newest
	if errors.Is(err, ErrNoObject) || errors.Is(err, ErrTooLarge) {
		return nil, nil
	}
	return b, err
}
