package manifest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/arcboxlabs/arcstore/store/crypt"
)

const (
	fileMagic   = "arcmanif"
	fileVersion = 1
	headerSize  = 16
	footerSize  = 32
)

var crcTable = crc32.MakeTable(crc32.Castagnoli)

func checkVersion(v uint32) error {
	if v > fileVersion {
		return fmt.Errorf("%w: it has format %d, this program knows up to %d", ErrVersion, v, fileVersion)
	}
	if v == 0 {
		return errors.New("it has no format version")
	}
	return nil
}

// encodeHeader returns the begin of a manifest file.
func encodeHeader() []byte {
	b := append([]byte(nil), fileMagic...)
	b = binary.LittleEndian.AppendUint32(b, fileVersion)
	return binary.LittleEndian.AppendUint32(b, 0)
}

// encodeFooter returns the end of a manifest file: where its root is. Its
// layout is that of all versions, so that damage is told from a newer one.
func encodeFooter(offset, length int64) []byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(offset))
	b = binary.LittleEndian.AppendUint64(b, uint64(length))
	b = binary.LittleEndian.AppendUint32(b, fileVersion)
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, crcTable))
	return append(b, fileMagic...)
}

// decodeFooter parses the last footerSize bytes of a file of size bytes.
func decodeFooter(b []byte, size int64) (offset, length int64, err error) {
	le := binary.LittleEndian
	if len(b) != footerSize || string(b[24:]) != fileMagic {
		return 0, 0, errors.New("it has no footer")
	}
	if le.Uint32(b[20:]) != crc32.Checksum(b[:20], crcTable) {
		return 0, 0, errors.New("its footer has a wrong checksum")
	}
	if err := checkVersion(le.Uint32(b[16:])); err != nil {
		return 0, 0, err
	}
	offset, length = int64(le.Uint64(b)), int64(le.Uint64(b[8:]))
	if offset < headerSize || length < 0 || length > min(size, maxRoot+crypt.Overhead) || offset != size-footerSize-length {
		return 0, 0, errors.New("its footer does not fit its size")
	}
	return offset, length, nil
}
