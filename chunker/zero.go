package chunker

import "bytes"

// zeros is compared with, a piece at a time, so that it stays in the first-level cache.
var zeros [4096]byte

// IsZero reports whether every byte of b is zero. It runs at memory speed
// and stops at the first piece of data.
func IsZero(b []byte) bool {
	// Most pages with data show it in the first bytes.
	if len(b) >= 8 && b[0]|b[1]|b[2]|b[3]|b[4]|b[5]|b[6]|b[7] != 0 {
		return false
	}
	for len(b) > len(zeros) {
		if !bytes.Equal(b[:len(zeros)], zeros[:]) {
			return false
		}
		b = b[len(zeros):]
	}
	return bytes.Equal(b, zeros[:len(b)])
}
