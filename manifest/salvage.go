package manifest

import (
	"errors"

	"github.com/arcboxlabs/arcstore/chunker"
)

// A Gap is entries that cannot be read.
type Gap struct {
	First, Count int64 // chunks of the stream
	Why          error
}

// isDamage reports whether a file is damaged or missing: whatever else is wrong may pass.
func isDamage(err error) bool { return errors.Is(err, ErrCorrupt) || errors.Is(err, ErrNotFound) }

// Salvage is Lookup that goes on past damage: where a page table cannot be
// read, newer ones may still say what is there. What nothing says is zero in ids, and a gap.
func (s *StreamTable) Salvage(first int64, ids []chunker.ID) ([]Gap, error) {
	var gaps []Gap
	for len(ids) > 0 {
		number, at := first/leafChunks, first%leafChunks
		part := ids[:min(int64(len(ids)), leafChunks-at)]
		err := s.Lookup(first, part)
		if err != nil && !isDamage(err) {
			return nil, err
		}
		if err != nil {
			gaps = s.salvage(number, int(at), part, gaps)
		}
		ids = ids[len(part):]
		first += int64(len(part))
	}
	return gaps, nil
}

// salvage is Salvage within one leaf that is known to be damaged.
func (s *StreamTable) salvage(number int64, at int, ids []chunker.ID, gaps []Gap) []Gap {
	var c composed
	known, why := s.overlay(number, &c)
	c.fill(at, ids)
	if why == nil {
		return gaps // it can be read now
	}
	for i := at; i < min(at+len(ids), known); i++ {
		if c.at[i] != unsaid {
			continue
		}
		chunk := number*leafChunks + int64(i)
		if n := len(gaps); n > 0 && gaps[n-1].First+gaps[n-1].Count == chunk && gaps[n-1].Why.Error() == why.Error() {
			gaps[n-1].Count++
		} else {
			gaps = append(gaps, Gap{chunk, 1, why})
		}
	}
	return gaps
}
