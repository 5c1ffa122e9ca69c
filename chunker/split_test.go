package chunker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"
)

// sparse is a source with holes, as a file has them.
type sparse struct {
	data  []byte
	holes []bool // a flag a page
}

func (s *sparse) ReadAt(p []byte, off int64) (int, error) {
	return bytes.NewReader(s.data).ReadAt(p, off)
}
func (s *sparse) Size() int64 { return int64(len(s.data)) }

func (s *sparse) NextData(off int64) (start, end int64, err error) {
	page := int(off / PageSize)
	for page < len(s.holes) && s.holes[page] {
		page++
	}
	if page == len(s.holes) {
		return s.Size(), s.Size(), nil
	}
	start = max(off, int64(page)*PageSize)
	for page < len(s.holes) && !s.holes[page] {
		page++
	}
	return start, min(int64(page)*PageSize, s.Size()), nil
}

// newSparse makes a source of size bytes: pages of data, pages of zeros, and holes.
func newSparse(r *rand.Rand, size int) *sparse {
	s := &sparse{data: make([]byte, size), holes: make([]bool, (size+PageSize-1)/PageSize)}
	kind, left := 0, 0
	for page := range s.holes {
		if left == 0 {
			kind, left = r.IntN(3), 1+r.IntN(40)
		}
		left--
		part := s.data[page*PageSize : min((page+1)*PageSize, size)]
		switch kind {
		case 0:
			part[r.IntN(len(part))] = byte(1 + r.IntN(255))
		case 1:
			s.holes[page] = true
		}
	}
	return s
}

// noHoles hides that a source knows its holes.
type noHoles struct{ Source }

func TestSplit(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, chunkSize := range []int{4 << 10, 16 << 10, 512 << 10} {
		for _, size := range []int{0, 1, 4095, 4096, 4097, 1 << 20, 5<<20 + 123} {
			for _, mode := range []string{"plain", "holes", "dirty", "dirty holes"} {
				t.Run(fmt.Sprintf("%d/%d/%s", chunkSize, size, mode), func(t *testing.T) {
					s := newSparse(r, size)
					var src Source = s
					if mode == "plain" || mode == "dirty" {
						src = noHoles{s}
					}
					o := Options{ChunkSize: chunkSize}
					pages := (size + PageSize - 1) / PageSize
					if mode == "dirty" || mode == "dirty holes" {
						o.Dirty = make(Bitmap, (pages+7)/8)
						for i := range o.Dirty {
							o.Dirty[i] = byte(1 << r.IntN(24))
						}
					}
					checkSplit(t, src, s.data, o)
				})
			}
		}
	}
}

// checkSplit compares what Split says with what a look at data says.
func checkSplit(t *testing.T, src Source, data []byte, o Options) {
	t.Helper()
	next := int64(0)
	err := Split(context.Background(), src, o, func(b *Batch) error {
		if b.First != next {
			return fmt.Errorf("batch begins at chunk %d, want %d", b.First, next)
		}
		next += b.Count
		for i := range b.Count {
			off := (b.First + i) * int64(o.ChunkSize)
			chunk := data[off:min(off+int64(o.ChunkSize), int64(len(data)))]
			dirty := o.Dirty == nil
			for page := off / PageSize; page*PageSize < off+int64(len(chunk)) && o.Dirty != nil; page++ {
				dirty = dirty || o.Dirty[page/8]&(1<<(page%8)) != 0
			}
			if dirty == (b.Kind == Clean) {
				return fmt.Errorf("chunk %d: dirty %v, kind %d", b.First+i, dirty, b.Kind)
			}
			switch b.Kind {
			case Hole:
				if !IsZero(chunk) {
					return fmt.Errorf("chunk %d is no hole", b.First+i)
				}
			case Data:
				want := ID{}
				if !IsZero(chunk) {
					want = Sum(chunk)
				}
				if b.IDs[i] != want || !bytes.Equal(b.Chunk(int(i), o.ChunkSize), chunk) {
					return fmt.Errorf("chunk %d has other bytes or another ID", b.First+i)
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if want := ceilDiv(int64(len(data)), int64(o.ChunkSize)); next != want {
		t.Fatalf("%d chunks, want %d", next, want)
	}
}

// short is a source that shrinks.
type short struct {
	*bytes.Reader
	size int64
}

func (s short) Size() int64 { return s.size }

type failing struct{ Source }

func (f failing) ReadAt(p []byte, off int64) (int, error) {
	if off >= 1<<20 {
		return 0, errors.New("the disk is on fire")
	}
	return f.Source.ReadAt(p, off)
}

func TestSplitErrors(t *testing.T) {
	data := bytes.Repeat([]byte{1}, 3<<20)
	src := bytes.NewReader(data)
	ignore := func(*Batch) error { return nil }
	ctx := context.Background()
	if err := Split(ctx, short{src, 4 << 20}, Options{ChunkSize: 4096}, ignore); !errors.Is(err, ErrShort) {
		t.Errorf("a source that shrank: %v", err)
	}
	if err := Split(ctx, failing{src}, Options{ChunkSize: 4096}, ignore); err == nil || errors.Is(err, ErrShort) {
		t.Errorf("a source that fails: %v", err)
	}
	if err := Split(ctx, src, Options{ChunkSize: 5000}, ignore); err == nil {
		t.Error("a chunk size of 5000 was taken")
	}
	if err := Split(ctx, src, Options{ChunkSize: 4096, Dirty: make(Bitmap, 95)}, ignore); !errors.Is(err, ErrBitmap) {
		t.Errorf("a bitmap that is too short: %v", err)
	}
	if err := Split(ctx, src, Options{ChunkSize: 4096, Dirty: make(Bitmap, 104)}, ignore); err != nil {
		// 768 pages are 96 bytes, and also 12 words; 104 is neither.
		if !errors.Is(err, ErrBitmap) {
			t.Error(err)
		}
	} else {
		t.Error("a bitmap that is too long was taken")
	}
	cancelled, cancel := context.WithCancel(ctx)
	err := Split(cancelled, src, Options{ChunkSize: 4096}, func(b *Batch) error { cancel(); return nil })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if err := Split(ctx, src, Options{ChunkSize: 4096}, func(*Batch) error { return io.ErrClosedPipe }); err != io.ErrClosedPipe {
		t.Errorf("an error of emit came back as %v", err)
	}
}

func TestIsZero(t *testing.T) {
	for _, n := range []int{0, 1, 7, 8, 100, 4096, 4097, 70000} {
		b := make([]byte, n)
		if !IsZero(b) {
			t.Errorf("%d zeros are not zero", n)
		}
		for i := range b {
			if n > 5000 && i%997 != 0 && i != n-1 {
				continue
			}
			b[i] = 1
			if IsZero(b) {
				t.Fatalf("byte %d of %d was not seen", i, n)
			}
			b[i] = 0
		}
	}
}

func TestIDText(t *testing.T) {
	id := Sum([]byte("a page"))
	if back, err := ParseID(id.String()); err != nil || back != id {
		t.Errorf("%s came back as %s, %v", id, back, err)
	}
	for _, bad := range []string{"", "12", id.String() + "0", "z" + id.String()[1:]} {
		if _, err := ParseID(bad); err == nil {
			t.Errorf("%q was taken for an ID", bad)
		}
	}
}

// The planner must cover a source exactly, whatever bitmap and holes say.
func FuzzPlanner(f *testing.F) {
	f.Add(uint16(100), uint8(0), []byte{0xff, 0, 3}, uint64(1))
	f.Fuzz(func(t *testing.T, pages uint16, shift uint8, dirty []byte, seed uint64) {
		chunkSize := 4096 << (shift % 4)
		s := newSparse(rand.New(rand.NewPCG(seed, 0)), int(pages%600)*PageSize+int(seed%PageSize))
		o := Options{ChunkSize: chunkSize}
		if len(dirty) > 0 {
			o.Dirty = make(Bitmap, (len(s.holes)+7)/8)
			for i := range o.Dirty {
				o.Dirty[i] = dirty[i%len(dirty)]
			}
		}
		checkSplit(t, s, s.data, o)
	})
}

func BenchmarkSplit(b *testing.B) {
	data := make([]byte, 64<<20)
	rand.NewChaCha8([32]byte{}).Read(data[:16<<20])
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		if err := Split(context.Background(), bytes.NewReader(data), Options{ChunkSize: 4096}, func(*Batch) error { return nil }); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkIsZero(b *testing.B) {
	page := make([]byte, 4096)
	b.SetBytes(4096)
	for b.Loop() {
		IsZero(page)
	}
}
