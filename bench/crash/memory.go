package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
)

const pageSize = 4096

// A memory is what a guest's memory holds, page by page: 0 is a page of
// zeros, anything else the seed that the page is made from. So a model of a
// snapshot is as small as its page numbers, and every byte of it is known.
type memory []uint64

// newMemory makes the memory of a target that was never snapshotted: a third of it zero.
func newMemory(r *rand.Rand, pages int) memory {
	m := make(memory, pages)
	for i := range m {
		if r.IntN(3) > 0 {
			m[i] = r.Uint64() | 1
		}
	}
	return m
}

// change returns what m becomes after a while, and which pages that dirtied:
// runs of pages are written, cleared, or copied from elsewhere.
func (m memory) change(r *rand.Rand) (memory, []byte) {
	next := append(memory(nil), m...)
	dirty := make([]byte, (len(m)+7)/8)
	for range 1 + r.IntN(40) {
		n := 1 + r.IntN(len(m)/100)
		at, from := r.IntN(len(m)-n), r.IntN(len(m)-n)
		how := r.IntN(6)
		for i := range n {
			switch how {
			case 0:
				next[at+i] = 0
			case 1:
				next[at+i] = m[from+i]
			default:
				next[at+i] = r.Uint64() | 1
			}
			dirty[(at+i)/8] |= 1 << ((at + i) % 8)
		}
	}
	return next, dirty
}

// fill makes page i: zero, text-like or random bytes.
func (m memory) fill(p []byte, i int) {
	seed := m[i]
	if seed == 0 {
		clear(p)
		return
	}
	state := seed
	for at := 0; at < len(p); at += 8 {
		state = state*6364136223846793005 + 1442695040888963407
		word := state ^ state>>29
		if seed&2 != 0 { // one in two is compressible
			word &= 0x0f0f000f0f000f0f
		}
		binary.LittleEndian.PutUint64(p[at:], word)
	}
}

// Size returns the memory's size in bytes.
func (m memory) Size() int64 { return int64(len(m)) * pageSize }

// ReadAt makes memory a source of snapshots.
func (m memory) ReadAt(p []byte, off int64) (int, error) {
	var page [pageSize]byte
	n := 0
	for n < len(p) {
		i := int((off + int64(n)) / pageSize)
		if i >= len(m) {
			return n, io.EOF
		}
		m.fill(page[:], i)
		n += copy(p[n:], page[(off+int64(n))%pageSize:])
	}
	return n, nil
}

// compare reads all of src and returns an error if it is not m.
func (m memory) compare(src io.ReaderAt) error {
	const step = 256
	got, want := make([]byte, step*pageSize), make([]byte, step*pageSize)
	for at := 0; at < len(m); at += step {
		n := min(step, len(m)-at) * pageSize
		if _, err := src.ReadAt(got[:n], int64(at)*pageSize); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if _, err := m.ReadAt(want[:n], int64(at)*pageSize); err != nil {
			return err
		}
		if !bytes.Equal(got[:n], want[:n]) {
			for i := range n {
				if got[i] != want[i] {
					return fmt.Errorf("byte %d is %#02x and should be %#02x", at*pageSize+i, got[i], want[i])
				}
			}
		}
	}
	return nil
}

// save and loadMemory hand a memory to a child process.
func (m memory) save(name string) error {
	b := make([]byte, 0, len(m)*8)
	for _, seed := range m {
		b = binary.LittleEndian.AppendUint64(b, seed)
	}
	return os.WriteFile(name, b, 0o600)
}

func loadMemory(name string) (memory, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	m := make(memory, len(b)/8)
	for i := range m {
		m[i] = binary.LittleEndian.Uint64(b[i*8:])
	}
	return m, nil
}
