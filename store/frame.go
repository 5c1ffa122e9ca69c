package store

import (
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// frameTarget is the uncompressed size at which a frame is closed, in bytes;
// a chunk of more than that has a frame of its own.
const frameTarget = 64 << 10

// Codec says how a frame's bytes are stored. The values are part of the format.
type Codec uint8

const (
	Raw  Codec = 0 // as they are
	LZ4  Codec = 1 // one LZ4 block
	Zstd Codec = 2 // one Zstandard frame
)

// String returns the codec's name, as ParseCodec takes it.
func (c Codec) String() string {
	switch c {
	case Raw:
		return "raw"
	case LZ4:
		return "lz4"
	case Zstd:
		return "zstd"
	}
	return fmt.Sprintf("codec %d", uint8(c))
}

// ParseCodec returns the compression of that name.
func ParseCodec(name string) (Codec, error) {
	switch name {
	case "lz4":
		return LZ4, nil
	case "zstd":
		return Zstd, nil
	}
	return 0, fmt.Errorf("store: unknown compression %q: choose lz4 or zstd", name)
}

var crcTable = crc32.MakeTable(crc32.Castagnoli)

func checksum(b []byte) uint32 { return crc32.Checksum(b, crcTable) }

// encoder compresses frames for one goroutine at a time.
type encoder struct {
	lz4  lz4.CompressorCCompat
	zstd *zstd.Encoder
}

// encode appends the stored form of raw to dst[:0] and says how it is stored.
func (e *encoder) encode(dst, raw []byte, codec Codec) (Codec, []byte, error) {
	switch codec {
	case LZ4:
		if n := lz4.CompressBlockBound(len(raw)); cap(dst) < n {
			dst = make([]byte, n)
		}
		n, err := e.lz4.CompressBlock(raw, dst[:cap(dst)])
		if err != nil {
			return 0, nil, fmt.Errorf("store: lz4: %w", err)
		}
		if n > 0 && n < len(raw) {
			return LZ4, dst[:n], nil
		}
	case Zstd:
		if e.zstd == nil {
			var err error
			e.zstd, err = zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithEncoderConcurrency(1),
				zstd.WithEncoderCRC(false), zstd.WithWindowSize(1<<20), zstd.WithLowerEncoderMem(true))
			if err != nil {
				return 0, nil, fmt.Errorf("store: zstd: %w", err)
			}
		}
		if out := e.zstd.EncodeAll(raw, dst[:0]); len(out) < len(raw) {
			return Zstd, out, nil
		}
	}
	return Raw, raw, nil
}

// decoder decompresses frames for one goroutine at a time.
type decoder struct {
	zstd *zstd.Decoder
}

var errFrameLength = errors.New("frame has another length than its table says")

// decode returns the rawLen bytes that stored stands for, in dst if it has
// room; for a raw frame, stored itself.
func (d *decoder) decode(dst, stored []byte, codec Codec, rawLen int) ([]byte, error) {
	if cap(dst) < rawLen {
		dst = make([]byte, rawLen)
	}
	dst = dst[:rawLen]
	switch codec {
	case Raw:
		if len(stored) != rawLen {
			return nil, errFrameLength
		}
		return stored, nil
	case LZ4:
		n, err := lz4.UncompressBlock(stored, dst)
		if err != nil {
			return nil, err
		}
		if n != rawLen {
			return nil, errFrameLength
		}
		return dst, nil
	case Zstd:
		if d.zstd == nil {
			var err error
			d.zstd, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxFrameRaw), zstd.WithDecoderLowmem(true))
			if err != nil {
				return nil, err
			}
		}
		// The capacity bounds what a hostile frame can make it allocate.
		out, err := d.zstd.DecodeAll(stored, dst[:0:rawLen])
		if err != nil {
			return nil, err
		}
		if len(out) != rawLen {
			return nil, errFrameLength
		}
		return out, nil
	}
	return nil, fmt.Errorf("unknown codec %d", uint8(codec))
}

// close lets go of what the codecs hold.
func (d *decoder) close() {
	if d.zstd != nil {
		d.zstd.Close()
	}
}
