package remote

import (
	"encoding/binary"
	"fmt"

	"github.com/zeebo/blake3"

	"github.com/arcboxlabs/arcstore/manifest"
	"github.com/arcboxlabs/arcstore/store"
)

// maxIndex bounds an index object, in bytes: the tables of uploadPacks packs.
const maxIndex = 256 << 20

// upload is an index object: the parts of one upload, of packs with their tables. It is written when all of
// them are there.
type upload struct {
	packs     []uploadedPack
	manifests []uploadedManifest
}

type uploadedPack struct {
	id        store.PackID
	size      int64
	table     []byte // as it stands in the pack; nil where the cache has the object
	offset    int64  // of the table in the object,
	tableSize int64  // and its length
}

type uploadedManifest struct {
	digest manifest.Digest
	size   int64
}

func (u *upload) encode(key string, seal sealer) []byte {
	le := binary.LittleEndian
	b := le.AppendUint32(nil, uint32(len(u.packs)))
	b = le.AppendUint32(b, uint32(len(u.manifests)))
	for _, m := range u.manifests {
		b = append(b, m.digest[:]...)
		b = le.AppendUint64(b, uint64(m.size))
	}
	for _, p := range u.packs {
		b = le.AppendUint64(b, uint64(p.size))
		b = le.AppendUint32(b, uint32(len(p.table)))
	}
	for _, p := range u.packs {
		b = append(b, p.table...)
	}
	return seal.seal(key, b)
}

// decodeUpload is the inverse of encode. The tables are parts of b.
func decodeUpload(key string, b []byte, seal sealer) (*upload, error) {
	whole := len(b)
	b, err := seal.unseal(key, b)
	if err != nil {
		return nil, err
	}
	end := whole - checksumSize
	bad := func(why string) error { return fmt.Errorf("remote: %s: %w: %s", key, ErrCorrupt, why) }
	le := binary.LittleEndian
	if len(b) < 8 {
		return nil, bad("it is too short")
	}
	packs, manifests := uint64(le.Uint32(b)), uint64(le.Uint32(b[4:]))
	b = b[8:]
	if uint64(len(b)) < packs*12+manifests*40 {
		return nil, bad("it counts more than it holds")
	}
	u := &upload{packs: make([]uploadedPack, packs), manifests: make([]uploadedManifest, manifests)}
	for i := range u.manifests {
		u.manifests[i] = uploadedManifest{digest: manifest.Digest(b[:32]), size: int64(le.Uint64(b[32:]))}
		b = b[40:]
	}
	sizes := b[:packs*12]
	b = b[packs*12:]
	for i := range u.packs {
		n := uint64(le.Uint32(sizes[8:]))
		if uint64(len(b)) < n {
			return nil, bad("a table is cut short")
		}
		u.packs[i] = uploadedPack{id: blake3.Sum256(b[:n]), size: int64(le.Uint64(sizes)), table: b[:n:n], offset: int64(end - len(b)), tableSize: int64(n)}
		b, sizes = b[n:], sizes[12:]
	}
	if len(b) != 0 {
		return nil, bad("it holds more than it counts")
	}
	return u, nil
}

// pack returns what the upload has of a pack; nil if it lacks it.
func (u *upload) pack(id store.PackID) *uploadedPack {
	for i := range u.packs {
		if u.packs[i].id == id {
			return &u.packs[i]
		}
	}
	return nil
}
