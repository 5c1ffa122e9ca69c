package chunker

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
)

// PageSize is the size in bytes of the guest page that one bit of a dirty
// bitmap stands for, whatever the chunk size.
const PageSize = 4096

// ErrBitmap is wrapped by the error for a dirty bitmap that does not fit its source.
var ErrBitmap = errors.New("dirty bitmap does not fit")

// Bitmap has one bit for each page of a source, lowest bit of the first byte
// first, as KVM's dirty log gives it: 1 means that the page may have changed.
type Bitmap []byte

// Check reports whether the bitmap has the right length for a source of size
// bytes: a bit for each page, in whole bytes or in whole 64-bit words.
func (m Bitmap) Check(size int64) error {
	pages := ceilDiv(size, PageSize)
	exact, words := ceilDiv(pages, 8), ceilDiv(pages, 64)*8
	if n := int64(len(m)); n != exact && n != words {
		return fmt.Errorf("%w: it has %d bytes, but %d pages of %d bytes need %d", ErrBitmap, n, pages, PageSize, exact)
	}
	return nil
}

// next returns the first index at or after page, and below end, whose bit is
// set (or clear, for set == false); end when there is none.
func (m Bitmap) next(page, end int64, set bool) int64 {
	for page < end {
		word := m.word(page >> 6)
		if !set {
			word = ^word
		}
		word >>= uint(page & 63)
		if word != 0 {
			return min(page+int64(bits.TrailingZeros64(word)), end)
		}
		page = (page>>6 + 1) << 6
	}
	return end
}

// word returns the i-th 64-bit word; bits past the end read as zero.
func (m Bitmap) word(i int64) uint64 {
	b := m[min(i*8, int64(len(m))):]
	if len(b) >= 8 {
		return binary.LittleEndian.Uint64(b)
	}
	var tail [8]byte
	copy(tail[:], b)
	return binary.LittleEndian.Uint64(tail[:])
}

func ceilDiv(a, b int64) int64 { return (a + b - 1) / b }
