package store

// repairBit flips the one bit of b whose flip gives b the checksum want, and
// reports whether there is one. A CRC tells each single flipped bit of up to 2 GiB from
// all others; of what else may have happened it can guess wrong, so the result is to be verified.
func repairBit(b []byte, want uint32) bool {
	diff := checksum(b) ^ want
	if diff == 0 {
		return true
	}
	// What a flipped bit of the last byte does to the checksum; each byte that
	// follows it shifts that once more.
	var effect [8]uint32
	for bit := range effect {
		effect[bit] = crcTable[1<<bit]
	}
	for i := len(b) - 1; i >= 0; i-- {
		for bit, e := range effect {
			if e == diff {
				b[i] ^= 1 << bit
				return true
			}
			effect[bit] = crcTable[e&0xff] ^ e>>8
		}
	}
	return false
}
