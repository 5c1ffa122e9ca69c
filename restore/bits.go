package restore

import "sync/atomic"

// pageSize is that of the guest's small pages, in bytes: what bits and working sets count in.
const pageSize = 4096

// bits has one bit for each page of a stream. It is safe for concurrent use.
type bits []atomic.Uint64

func newBits(size int64) bits { return make(bits, (size/pageSize+64)/64) }

func (b bits) has(page int64) bool { return b[page>>6].Load()&(1<<(page&63)) != 0 }

// set sets the bits from page on, and returns how many of them were not set before.
func (b bits) set(page, count int64) (added int) {
	for ; count > 0; page, count = page+1, count-1 {
		if bit := uint64(1) << (page & 63); b[page>>6].Or(bit)&bit == 0 {
			added++
		}
	}
	return added
}

func (b bits) clear(page, count int64) {
	for ; count > 0; page, count = page+1, count-1 {
		b[page>>6].And(^(uint64(1) << (page & 63)))
	}
}
