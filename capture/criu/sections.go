package criu

import (
	"fmt"
	"io"
	"sort"

	"github.com/arcboxlabs/arcstore/chunker"
)

// A section is a part of a source that consists of parts of others.
type section struct {
	at    int64 // in the whole, in bytes
	len   int64 // in bytes
	level int   // names src
	src   chunker.Source
	off   int64 // in src, in bytes
}

// sections is a source that consists of parts of others, one after the other
// without gaps. It is as safe for concurrent use as they are.
type sections struct{ parts []section }

// add appends a part: to the last one, if it goes on where that ends.
func (s *sections) add(p section) {
	if n := len(s.parts); n > 0 {
		if last := &s.parts[n-1]; last.level == p.level && last.off+last.len == p.off {
			last.len += p.len
			return
		}
	}
	s.parts = append(s.parts, p)
}

// Size returns the length in bytes.
func (s *sections) Size() int64 {
	if len(s.parts) == 0 {
		return 0
	}
	last := s.parts[len(s.parts)-1]
	return last.at + last.len
}

// ReadAt implements io.ReaderAt.
func (s *sections) ReadAt(p []byte, off int64) (n int, err error) {
	if off < 0 {
		return 0, fmt.Errorf("criu: reading at byte %d", off)
	}
	first := sort.Search(len(s.parts), func(i int) bool { return s.parts[i].at+s.parts[i].len > off })
	for _, part := range s.parts[first:] {
		if n == len(p) {
			break
		}
		skip := off + int64(n) - part.at
		want := int(min(int64(len(p)-n), part.len-skip))
		got, err := part.src.ReadAt(p[n:n+want], part.off+skip)
		n += got
		if got < want {
			if err == nil || err == io.EOF {
				err = io.ErrUnexpectedEOF // the part ends within the whole
			}
			return n, err
		}
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}
