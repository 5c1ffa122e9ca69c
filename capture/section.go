package capture

import (
	"io"
	"sort"
)

// section is a part of a file as a source, safe for concurrent ReadAt.
type section struct {
	f    *File
	off  int64 // in the file, in bytes
	size int64 // bytes
}

// Size returns the length in bytes.
func (s *section) Size() int64 { return s.size }

// ReadAt implements io.ReaderAt.
func (s *section) ReadAt(p []byte, off int64) (int, error) {
	return io.NewSectionReader(s.f, s.off, s.size).ReadAt(p, off)
}

// NextData implements chunker.HoleFinder.
func (s *section) NextData(off int64) (start, end int64, err error) {
	start, end, err = s.f.NextData(s.off + off)
	return min(max(start-s.off, off), s.size), min(end-s.off, s.size), err
}

// gaps is what lies between the parts of a file, as one source.
type gaps struct {
	f     *File
	parts []gap
	size  int64
}

// gap is a range of the file that goes on at a place of the source.
type gap struct{ at, off, len int64 }

// add appends a range of the file.
func (g *gaps) add(off, end int64) {
	if end > off {
		g.parts = append(g.parts, gap{g.size, off, end - off})
		g.size += end - off
	}
}

// Size returns the length in bytes.
func (g *gaps) Size() int64 { return g.size }

// ReadAt implements io.ReaderAt.
func (g *gaps) ReadAt(p []byte, off int64) (n int, err error) {
	first := sort.Search(len(g.parts), func(i int) bool { return g.parts[i].at+g.parts[i].len > off })
	for _, part := range g.parts[first:] {
		if n == len(p) {
			return n, nil
		}
		skip := off + int64(n) - part.at
		want := min(int64(len(p)-n), part.len-skip)
		got, err := g.f.ReadAt(p[n:n+int(want)], part.off+skip)
		n += got
		if int64(got) < want {
			return n, err
		}
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}
