package remote

import (
	"container/list"
	"slices"
	"sync"
)

// spansBytes bounds what is kept of objects that were read in parts, in bytes.
const spansBytes = 32 << 20

// spans keeps parts of objects, those that were used last: whoever reads a guest's memory page by page fetches each frame
// once, and so does a restore, most of the time: parts of a memory that follow each other have frames in common. It is safe
// for concurrent use.
type spans struct {
	mu    sync.Mutex
	order list.List // of *span, the last used first
	byKey map[string][]*list.Element
	bytes int64
}

type span struct {
	key string
	off int64
	b   []byte
}

// read fills p from what is kept of an object, and reports whether it could.
func (s *spans) read(key string, p []byte, off int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.byKey[key] {
		at := e.Value.(*span)
		if off >= at.off && off+int64(len(p)) <= at.off+int64(len(at.b)) {
			s.order.MoveToFront(e)
			copy(p, at.b[off-at.off:])
			return true
		}
	}
	return false
}

// keep copies what was read.
func (s *spans) keep(key string, p []byte, off int64) {
	kept := &span{key, off, slices.Clone(p)}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byKey == nil {
		s.byKey = make(map[string][]*list.Element)
	}
	e := s.order.PushFront(kept)
	s.byKey[key] = append(s.byKey[key], e)
	for s.bytes += int64(len(p)); s.bytes > spansBytes; {
		s.drop(s.order.Back())
	}
}

func (s *spans) drop(e *list.Element) {
	at := s.order.Remove(e).(*span)
	s.bytes -= int64(len(at.b))
	kept := s.byKey[at.key]
	for i := range kept {
		if kept[i] == e {
			s.byKey[at.key] = append(kept[:i:i], kept[i+1:]...)
			break
		}
	}
	if len(s.byKey[at.key]) == 0 {
		delete(s.byKey, at.key)
	}
}
