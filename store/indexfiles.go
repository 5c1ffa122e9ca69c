package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/dgraph-io/badger/v4/fb"
	"github.com/dgraph-io/badger/v4/pb"
	"github.com/dgraph-io/badger/v4/y"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"
)

// Badger ends the process over some of what can happen to its files. So they
// are looked at first: with filesName, byte by byte, after the store was closed in good
// order; otherwise by the checksums in Badger's own tables.
const (
	badgerName = "badger"
	filesName  = "files" // lists Badger's files as they were when it was closed; not there while it is open
)

// checkFiles reports what is wrong with Badger's files.
func (x *index) checkFiles() error {
	want, err := os.ReadFile(filepath.Join(x.dir, filesName))
	if errors.Is(err, fs.ErrNotExist) {
		return x.checkTables()
	}
	if err != nil {
		return fmt.Errorf("store: index: %w", err)
	}
	got, err := x.listFiles(nil)
	if err == nil && !bytes.Equal(got, want) {
		err = fmt.Errorf("store: index: %w: its files are not as they were left", ErrCorrupt)
	}
	x.listed = got
	return err
}

// noteFiles lists Badger's files, now that it is closed. Without the list, they are checked less well.
func (x *index) noteFiles() error {
	// Tables never change.
	known := make(map[string]string)
	for line := range strings.Lines(string(x.listed)) {
		known[line[9:]] = line
	}
	b, err := x.listFiles(func(size int64, name string) string {
		if filepath.Ext(name) != ".sst" {
			return ""
		}
		return known[fmt.Sprintf("%d %s\n", size, name)]
	})
	if err == nil {
		err = os.WriteFile(filepath.Join(x.dir, filesName), b, 0o600)
	}
	return err
}

// forgetFiles takes the list away, since Badger is about to change them.
func (x *index) forgetFiles() error {
	if err := os.Remove(filepath.Join(x.dir, filesName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("store: index: %w", err)
	}
	return nil
}

// listFiles returns a line for each of Badger's files: CRC-32C, size, name. known, if not nil, returns it where
// that needs no look at the file.
func (x *index) listFiles(known func(size int64, name string) string) ([]byte, error) {
	dir := filepath.Join(x.dir, badgerName)
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("store: index: %w", err)
	}
	lines := make([]string, len(entries))
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i, e := range entries {
		g.Go(func() error {
			f, err := os.Open(filepath.Join(dir, e.Name()))
			if err != nil {
				return fmt.Errorf("store: index: %w", err)
			}
			defer f.Close()
			if info, err := f.Stat(); err == nil && known != nil {
				if lines[i] = known(info.Size(), e.Name()); lines[i] != "" {
					return nil
				}
			}
			sum := crc32.New(crcTable)
			n, err := io.CopyBuffer(sum, struct{ io.Reader }{f}, make([]byte, 1<<20))
			if err != nil {
				return fmt.Errorf("store: index: %w", err)
			}
			lines[i] = fmt.Sprintf("%08x %d %s\n", sum.Sum32(), n, e.Name())
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return []byte(strings.Join(lines, "")), nil
}

// checkTables checks the tables of a Badger that was not closed.
func (x *index) checkTables() error {
	names, err := filepath.Glob(filepath.Join(x.dir, badgerName, "*.sst"))
	if err != nil {
		return fmt.Errorf("store: index: %w", err)
	}
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			return fmt.Errorf("store: index: %w", err)
		}
		if err := checkBadgerTable(b); err != nil {
			return fmt.Errorf("store: index: %w: %s: %w", ErrCorrupt, filepath.Base(name), err)
		}
	}
	return nil
}

// checkBadgerTable checks the checksums in one of Badger 4's tables: blocks,
// index, length of the index (4), checksum, length of the checksum (4), big-endian.
func checkBadgerTable(b []byte) (err error) {
	// What decodes the index trusts it; bytes that look right by chance must not end the process.
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("table does not decode: %v", r)
		}
	}()
	rest, sum, err := cutChecksum(b)
	if err != nil {
		return err
	}
	rest, index, err := cutCounted(rest)
	if err != nil {
		return err
	}
	if err := y.VerifyChecksum(index, sum); err != nil {
		return err
	}
	// From here on the index is what Badger wrote.
	t := fb.GetRootAsTableIndex(index, 0)
	if t.OffsetsLength() == 0 {
		return errors.New("table has no blocks")
	}
	for i := range t.OffsetsLength() {
		var o fb.BlockOffset
		t.Offsets(&o, i)
		if uint64(o.Offset())+uint64(o.Len()) > uint64(len(rest)) {
			return errors.New("table is too short")
		}
		block, sum, err := cutChecksum(rest[o.Offset():][:o.Len()])
		if err != nil {
			return err
		}
		if err := y.VerifyChecksum(block, sum); err != nil {
			return err
		}
	}
	return nil
}

// cutCounted takes the length at the end of b, and so many bytes before it.
func cutCounted(b []byte) (rest, last []byte, err error) {
	if len(b) < 4 {
		return nil, nil, errors.New("table is too short")
	}
	n := int64(binary.BigEndian.Uint32(b[len(b)-4:]))
	if b = b[:len(b)-4]; n > int64(len(b)) {
		return nil, nil, errors.New("table is too short")
	}
	return b[:int64(len(b))-n], b[int64(len(b))-n:], nil
}

func cutChecksum(b []byte) (rest []byte, sum *pb.Checksum, err error) {
	rest, encoded, err := cutCounted(b)
	if err != nil {
		return nil, nil, err
	}
	if len(encoded) == 0 {
		return nil, nil, errors.New("table has no checksum") // of no bytes at all it would be right
	}
	sum = &pb.Checksum{}
	if err := proto.Unmarshal(encoded, sum); err != nil {
		return nil, nil, err
	}
	// Badger takes an algorithm that it does not know for a mistake of its own, and panics.
	if sum.Algo != pb.Checksum_CRC32C && sum.Algo != pb.Checksum_XXHash64 {
		return nil, nil, errors.New("table has an unknown checksum")
	}
	return rest, sum, nil
}
