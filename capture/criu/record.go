package criu

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"google.golang.org/protobuf/proto"

	"github.com/arcboxlabs/arcstore/chunker"
)

// The numbers that image files begin with (CRIU's criu/include/magic.h).
const (
	commonMagic  = 0x54564319 // before the type of an image
	serviceMagic = 0x55105940 // before the type of a file that nothing is restored from
)

// A Type is the number by which an image file tells what its records are.
type Type uint32

// The types of image that arcstore reads.
const (
	TypeInventory Type = 0x58313116
	TypePstree    Type = 0x50273030
	TypeCore      Type = 0x55053847
	TypeIDs       Type = 0x54432030
	TypeMM        Type = 0x57492820
	TypePagemap   Type = 0x56084025
	TypeFdinfo    Type = 0x56213732
	TypeFiles     Type = 0x56303138
	TypeRegFiles  Type = 0x50363636
	TypeFIFO      Type = 0x58364939
	TypeTTY       Type = 0x59433025
	TypeInet      Type = 0x56443851
	TypeUnix      Type = 0x54373943
	TypePacket    Type = 0x60454618
	TypeFileLocks Type = 0x54323616
	TypeStats     Type = 0x57093306
)

// MaxRecord bounds a record, in bytes. The largest that CRIU writes are of
// processes with a great many mappings: some 60 bytes each.
const MaxRecord = 64 << 20

// records reads the records of an image file, one after the other.
type records struct {
	name string
	in   *bufio.Reader
	off  int64 // of what is read next, in bytes
	size int64 // of the file
	buf  []byte
}

// Each calls fn with the records of an image file in their order. A file that
// is not there has none. A record is valid during the call; reading it never
// takes more memory than the file has bytes left. An error of fn's ends it,
// and is returned in an ImageError that names the record.
func (images Images) Each(name string, t Type, fn func(record []byte) error) error {
	src := images[name]
	if src == nil {
		return nil
	}
	r, err := newRecords(name, src, t)
	if err != nil {
		return err
	}
	for {
		start := r.off
		record, err := r.next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if err := fn(record); err != nil {
			var image *ImageError
			if errors.As(err, &image) {
				return err
			}
			return &ImageError{Name: name, Why: fmt.Sprintf("the record at byte %d is damaged", start), Err: err}
		}
	}
}

// newRecords checks the numbers that a file of type t begins with.
func newRecords(name string, src chunker.Source, t Type) (*records, error) {
	size := src.Size()
	r := &records{name: name, size: size, in: bufio.NewReaderSize(io.NewSectionReader(src, 0, size), int(min(size, 64<<10)))}
	head := []uint32{commonMagic, uint32(t)}
	switch t {
	case TypeInventory: // which says whether the others have the common number
		head = head[1:]
	case TypeStats:
		head[0] = serviceMagic
	}
	for _, want := range head {
		got, err := r.number("its head")
		if err != nil {
			return nil, err
		}
		if got != want {
			return nil, damaged(name, "it has %#x where CRIU writes %#x", got, want)
		}
	}
	return r, nil
}

// next returns the next record, valid until the next call, and io.EOF after the last.
func (r *records) next() ([]byte, error) {
	if r.off == r.size {
		return nil, io.EOF
	}
	start := r.off
	size, err := r.number("the size of a record")
	if err != nil {
		return nil, err
	}
	if left := r.size - r.off; int64(size) > left || size > MaxRecord {
		return nil, damaged(r.name, "the record at byte %d claims %d bytes; %d are left, and the limit is %d", start, size, left, MaxRecord)
	}
	if int(size) > cap(r.buf) {
		r.buf = make([]byte, size)
	}
	r.buf = r.buf[:size]
	return r.buf, r.read(r.buf)
}

// number reads 32 bits.
func (r *records) number(what string) (uint32, error) {
	var b [4]byte
	if r.size-r.off < int64(len(b)) {
		return 0, damaged(r.name, "it is cut off in %s, at byte %d", what, r.size)
	}
	err := r.read(b[:])
	return binary.LittleEndian.Uint32(b[:]), err
}

func (r *records) read(b []byte) error {
	if _, err := io.ReadFull(r.in, b); err != nil {
		return &ImageError{Name: r.name, Why: fmt.Sprintf("reading at byte %d", r.off), Err: err}
	}
	r.off += int64(len(b))
	return nil
}

// Unmarshal sets m to what a record holds. Fields that only a newer CRIU
// writes become unknown fields of m, those that an older one does not write
// are empty: neither is an error.
func Unmarshal(record []byte, m proto.Message) error {
	return proto.UnmarshalOptions{AllowPartial: true}.Unmarshal(record, m)
}
