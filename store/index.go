package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"

	"github.com/arcboxlabs/arcstore/chunker"
	"github.com/arcboxlabs/arcstore/store/disk"
)

const (
	summaryName    = "summary"
	summaryMagic   = "arcindex"
	summaryVersion = 1

	// indexKeySize is how much of an ID is the key in Badger. Tables are
	// compared whole, so a collision costs a duplicate chunk at worst.
	indexKeySize   = 12
	indexValueSize = 6 // pack number, slot

	indexBatch = 8192 // entries written at a time

	// indexWrites is about what an entry takes on disk, compactions under way included, in bytes.
	indexWrites = 200
)

// index finds chunks in packs whose tables are not in memory. It is derived
// data, in two parts that are only ever used together: Badger holds chunk ID →
// (pack number, slot), and the summary file holds what pack numbers mean, the
// filter that says "certainly new", and so which packs the index covers.
// Badger is opened when it is first needed. Not safe for concurrent use, but for the
// locking that index itself does between lookup and extend.
type index struct {
	disk disk.Disk
	dir  string // index/

	mu      sync.RWMutex // guards what follows, against extend
	stamp   [16]byte     // of this generation, in both parts
	filter  filter
	numbers map[PackID]uint32 // the packs that are covered
	packs   []PackID          // by number

	dbMu    sync.Mutex
	db      *badger.DB
	broken  error       // why db cannot be opened
	suspect atomic.Bool // a look-up failed: it is to be made again
	listed  []byte      // what listFiles said before it was opened
}

var (
	stampKey = []byte("stamp") // shorter than any chunk's key
)

// openIndex reads the summary of the index in dir. A missing or damaged one
// is an empty index, to be filled again.
func openIndex(d disk.Disk, dir string) (*index, error) {
	x := &index{disk: d, dir: dir, numbers: make(map[PackID]uint32)}
	if _, err := disk.RemoveTemporary(d, dir); err != nil {
		return nil, fmt.Errorf("store: open index: %w", err)
	}
	b, err := disk.ReadFile(d, filepath.Join(dir, summaryName), maxSummary)
	if err == nil {
		err = x.decodeSummary(b)
	}
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, ErrCorrupt) {
			return nil, fmt.Errorf("store: open index: %w", err)
		}
		return x, x.reset()
	}
	return x, nil
}

// reset empties the index.
func (x *index) reset() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.dbMu.Lock()
	if x.db != nil {
		x.db.Close() // what of it fails is removed anyway
		x.db = nil
	}
	x.broken, x.listed = nil, nil
	x.dbMu.Unlock()
	x.suspect.Store(false)
	// The summary goes first: without it the rest means nothing.
	if err := x.disk.Remove(filepath.Join(x.dir, summaryName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("store: reset index: %w", err)
	}
	if err := os.RemoveAll(x.dir); err != nil {
		return fmt.Errorf("store: reset index: %w", err)
	}
	x.stamp = [16]byte{}
	x.filter, x.numbers, x.packs = filter{}, make(map[PackID]uint32), nil
	return nil
}

// covers reports whether the pack's chunks are in the index.
func (x *index) covers(id PackID) bool {
	x.mu.RLock()
	defer x.mu.RUnlock()
	_, ok := x.numbers[id]
	return ok
}

// mayHave reports false if the chunk is in no covered pack. It does not need Badger.
func (x *index) mayHave(id *chunker.ID) bool {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.filter.has(id)
}

// lookup returns the pack that may hold the chunk. ok is false when the
// chunk is in no covered pack, or when the index is out of order.
func (x *index) lookup(id *chunker.ID) (pack PackID, ok bool) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	if !x.filter.has(id) {
		return pack, false
	}
	db, err := x.open()
	if err != nil {
		return pack, false
	}
	err = db.View(func(tx *badger.Txn) error {
		item, err := tx.Get(id[:indexKeySize])
		if err != nil {
			return err
		}
		return item.Value(func(v []byte) error {
			if len(v) == indexValueSize {
				if n := binary.LittleEndian.Uint32(v); int(n) < len(x.packs) {
					pack, ok = x.packs[n], true
				}
			}
			return nil
		})
	})
	// Badger's errors are misses here: the worst is a chunk stored twice.
	if err != nil && !errors.Is(err, badger.ErrKeyNotFound) {
		x.suspect.Store(true)
	}
	return pack, ok && err == nil
}

// extend adds the chunks of tables to the index, but those in bad, in bulk and sorted.
func (x *index) extend(tables []*table, bad spoiled) error {
	x.mu.RLock()
	db, err := x.open()
	base := uint32(len(x.packs))
	x.mu.RUnlock()
	if err != nil {
		return err
	}
	total := 0
	for _, t := range tables {
		total += t.slots()
	}
	if err := checkRoom(x.dir, indexRoom+int64(total)*indexWrites); err != nil {
		return err
	}
	// Badger is written first and means nothing until the summary says so.
	const width = indexKeySize + indexValueSize
	records := make([]byte, 0, total*width)
	for i, t := range tables {
		for slot := range t.slots() {
			if bad.has(&t.pack, slot) {
				continue // or it might hide a sound copy
			}
			records = append(records, t.id(slot)[:indexKeySize]...)
			records = binary.LittleEndian.AppendUint32(records, base+uint32(i))
			records = binary.LittleEndian.AppendUint16(records, uint16(slot))
		}
	}
	order := make([]uint32, len(records)/width)
	for i := range order {
		order[i] = uint32(i)
	}
	slices.SortFunc(order, func(a, b uint32) int {
		ra, rb := records[a*width:(a+1)*width], records[b*width:(b+1)*width]
		return bytes.Compare(ra[:indexKeySize], rb[:indexKeySize])
	})
	for part := range slices.Chunk(order, indexBatch) {
		w := db.NewWriteBatch()
		for _, i := range part {
			r := records[i*width : (i+1)*width : (i+1)*width]
			if err := w.Set(r[:indexKeySize:indexKeySize], r[indexKeySize:]); err != nil {
				w.Cancel()
				return fmt.Errorf("store: index: %w", err)
			}
		}
		if err := w.Flush(); err != nil {
			return fmt.Errorf("store: index: %w", err)
		}
	}
	if err := db.Sync(); err != nil {
		return fmt.Errorf("store: index: %w", err)
	}

	x.mu.Lock()
	defer x.mu.Unlock()
	for i, t := range tables {
		x.packs = append(x.packs, t.pack)
		x.numbers[t.pack] = base + uint32(i)
		for slot := range t.slots() {
			x.filter.add(t.id(slot))
		}
	}
	if err := disk.WriteFile(x.disk, filepath.Join(x.dir, summaryName), x.encodeSummary(), true); err != nil {
		return fmt.Errorf("store: index: %w", err)
	}
	return nil
}

// open opens Badger; the caller holds mu.
func (x *index) open() (*badger.DB, error) {
	x.dbMu.Lock()
	defer x.dbMu.Unlock()
	if x.db != nil || x.broken != nil {
		return x.db, x.broken
	}
	// A full disk is no fault of the index, and passes.
	if err := checkRoom(filepath.Dir(x.dir), indexRoom); err != nil {
		return nil, err
	}
	x.db, x.broken = x.openDB()
	return x.db, x.broken
}

func (x *index) openDB() (*badger.DB, error) {
	dir := filepath.Join(x.dir, badgerName)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("store: open index: %w", err)
	}
	if err := x.checkFiles(); err != nil {
		return nil, err
	}
	if err := x.forgetFiles(); err != nil {
		return nil, err
	}
	db, err := badger.Open(badgerOptions(dir))
	if err != nil {
		return nil, fmt.Errorf("store: open index: %w", err)
	}
	if err := x.checkStamp(db); err != nil {
		db.Close()
		return nil, err
	}
	return db, nil
}

// check reports whether the index is in order.
func (x *index) check() error {
	x.mu.RLock()
	defer x.mu.RUnlock()
	if len(x.packs) == 0 {
		return nil
	}
	_, err := x.open()
	return err
}

// badgerOptions sizes Badger for tens of megabytes. Nothing in it needs to
// survive, for the packs do; nor is anything logged.
func badgerOptions(dir string) badger.Options {
	opts := badger.DefaultOptions(dir).
		WithLogger(nil).
		WithMetricsEnabled(false).
		WithDetectConflicts(false).
		WithSyncWrites(false).
		WithCompression(options.None).
		WithChecksumVerificationMode(options.OnBlockRead).
		WithMemTableSize(4 << 20).
		WithNumMemtables(2).
		WithNumLevelZeroTables(4).
		WithNumCompactors(2).
		WithBaseTableSize(2 << 20).
		WithBlockCacheSize(4 << 20).
		WithIndexCacheSize(16 << 20).
		WithValueThreshold(1 << 10).
		WithValueLogFileSize(1 << 20)
	opts.BloomFalsePositive = 0  // the summary's filter does that
	opts.TableSizeMultiplier = 1 // a compaction holds several tables in memory
	return opts
}

// checkStamp makes sure that Badger's content is the summary's. The stamp of
// an empty index is made here.
func (x *index) checkStamp(db *badger.DB) error {
	if x.stamp == [16]byte{} {
		x.stamp = newStamp()
		return db.Update(func(tx *badger.Txn) error { return tx.Set(stampKey, x.stamp[:]) })
	}
	return db.View(func(tx *badger.Txn) error {
		item, err := tx.Get(stampKey)
		if err != nil {
			return fmt.Errorf("store: index: %w: %w", ErrCorrupt, err)
		}
		return item.Value(func(v []byte) error {
			if !bytes.Equal(v, x.stamp[:]) {
				return fmt.Errorf("store: index: %w: its parts are of different ages", ErrCorrupt)
			}
			return nil
		})
	})
}

func (x *index) closeDB() error {
	x.dbMu.Lock()
	defer x.dbMu.Unlock()
	x.broken = nil
	if x.db == nil {
		return nil
	}
	err := x.db.Close()
	x.db = nil
	if err == nil {
		err = x.noteFiles()
	}
	if err != nil {
		return fmt.Errorf("store: close index: %w", err)
	}
	return nil
}

// stale returns how many of the covered packs are not in packs anymore.
func (x *index) stale(packs func(PackID) bool) (gone, covered int) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	for id := range x.numbers {
		if !packs(id) {
			gone++
		}
	}
	return gone, len(x.numbers)
}
