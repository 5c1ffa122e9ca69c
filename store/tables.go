package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/arcboxlabs/arcstore/chunker"
	"github.com/arcboxlabs/arcstore/store/crypt"
	"github.com/arcboxlabs/arcstore/store/disk"
)

// Tables finds chunks in packs that are elsewhere, such as in a bucket, by their tables alone. What it keeps on disk is
// derived from them. For one goroutine at a time, and one process.
type Tables struct {
	seal    *crypt.Sealer
	read    func(PackID) (table []byte, size int64, err error)
	index   *index // nil when it keeps nothing
	near    *locator
	packs   map[PackID]bool
	outside []*table // not in the index
	waiting int      // chunks in them

	last *table // where the last chunk was found,
	next int    // and the slot after it
}

// OpenTables returns the tables kept in dir, "" for in memory alone; Set says which there are. read reads one, as it
// stands in the pack, and the size of that pack in bytes. The packs are those of stores with the key.
func OpenTables(dir string, key *crypt.Key, read func(PackID) (table []byte, size int64, err error)) (*Tables, error) {
	t := &Tables{seal: key.Sealer(tablePurpose), read: read, near: newLocator(), packs: make(map[PackID]bool)}
	if dir == "" {
		return t, nil
	}
	if err := disk.MakeDir(disk.OS, dir); err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	var err error
	t.index, err = openIndex(disk.OS, dir)
	return t, err
}

// Set says in which packs to look from now on. It reads the tables of those that are new.
func (t *Tables) Set(ctx context.Context, packs []PackID) error {
	fresh := make(map[PackID]bool, len(packs))
	for _, id := range packs {
		fresh[id] = true
	}
	t.packs, t.last = fresh, nil
	if err := t.dropGone(); err != nil {
		return err
	}
	for _, id := range packs {
		if t.near.has(id) || (t.index != nil && t.index.covers(id)) {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		table, err := t.load(id)
		if err != nil {
			return err
		}
		t.near.add(table)
		t.outside = append(t.outside, table)
		if t.waiting += table.slots(); t.waiting > locatorChunks/2 {
			if err := t.flush(); err != nil {
				return err
			}
		}
	}
	if t.waiting > flushChunks || len(t.outside) > flushPacks {
		return t.flush()
	}
	return nil
}

// dropGone forgets packs that are not to be looked in anymore. The index knows one pack for each chunk: where
// that is gone, another one may have it, so with the first one gone all is made again.
func (t *Tables) dropGone() error {
	gone := false
	for _, known := range t.near.tables[1:] {
		gone = gone || !t.packs[known.pack]
	}
	if t.index != nil {
		n, _ := t.index.stale(func(id PackID) bool { return t.packs[id] })
		gone = gone || n > 0
	}
	if !gone {
		return nil
	}
	t.near, t.outside, t.waiting = newLocator(), nil, 0
	if t.index == nil {
		return nil
	}
	return t.index.reset()
}

// load reads and checks a table.
func (t *Tables) load(id PackID) (*table, error) {
	b, size, err := t.read(id)
	if err != nil {
		return nil, err
	}
	table, err := decodeTable(b, size-packFooterSize-int64(len(b)), t.seal)
	if err == nil && table.pack != id {
		err = errors.New("the table hashes to another ID")
	}
	if err != nil {
		return nil, &CorruptError{Pack: id, Offset: -1, Why: err.Error()}
	}
	table.size = size
	return table, nil
}

// flush puts into the index what is not there yet.
func (t *Tables) flush() error {
	if t.index == nil || len(t.outside) == 0 {
		return nil
	}
	err := t.index.extend(t.outside, nil)
	if err != nil && t.index.check() != nil {
		// Out of order: all is read again.
		if err = t.index.reset(); err == nil {
			err = errors.New("store: the index of a bucket was damaged and is empty now: try again")
		}
	}
	if err != nil {
		return err
	}
	t.outside, t.waiting = nil, 0
	if t.near.len() > locatorChunks {
		t.near, t.last = newLocator(), nil
	}
	return nil
}

// Find returns a pack that holds the chunk.
func (t *Tables) Find(id *chunker.ID) (pack PackID, found bool, err error) {
	if t.last != nil && t.next < t.last.slots() && *t.last.id(t.next) == *id {
		t.next++
		return t.last.pack, true, nil
	}
	if at, slot, ok := t.near.find(id, nil); ok {
		t.last, t.next = at, slot+1
		return at.pack, true, nil
	}
	if t.index == nil {
		return pack, false, nil
	}
	pack, ok := t.index.lookup(id)
	if !ok || t.near.has(pack) {
		return PackID{}, false, nil
	}
	// Its neighbours will be wanted, too.
	table, err := t.load(pack)
	if err != nil {
		return pack, false, err
	}
	if t.near.len() > locatorChunks {
		t.near = newLocator()
		for _, o := range t.outside {
			t.near.add(o)
		}
	}
	t.near.add(table)
	at, slot, ok := t.near.find(id, nil)
	if !ok {
		return PackID{}, false, nil
	}
	t.last, t.next = at, slot+1
	return at.pack, true, nil
}

// Close lets go of the index.
func (t *Tables) Close() error {
	if t.index == nil {
		return nil
	}
	return t.index.closeDB()
}
