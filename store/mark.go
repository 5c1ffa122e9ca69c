package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"
)

// A mark is what is known of the damage of one pack; damaged/<pack ID>. It
// makes nothing worse if it is wrong: what it calls damaged is stored again by who has it.
type mark struct {
	found time.Time
	slots []uint32 // in order; perhaps none, where what is damaged is no chunk's
	whole bool     // no chunk can be had, for the table is damaged
}

const (
	damagedName  = "damaged"
	markMagic    = "arcmarks"
	markVersion  = 1
	markHeadSize = 24
	maxMark      = markHeadSize + 4*maxSlots + 4 // bytes
	markWhole    = 1<<32 - 1                     // in place of the number of slots
)

// encode returns the mark's bytes: magic, version, number of slots, time, slots, checksum of it all.
func (m *mark) encode() []byte {
	b := append([]byte(nil), markMagic...)
	b = binary.LittleEndian.AppendUint32(b, markVersion)
	n := uint32(len(m.slots))
	if m.whole {
		n = markWhole
	}
	b = binary.LittleEndian.AppendUint32(b, n)
	b = binary.LittleEndian.AppendUint64(b, uint64(m.found.UnixNano()))
	for _, slot := range m.slots {
		b = binary.LittleEndian.AppendUint32(b, slot)
	}
	return binary.LittleEndian.AppendUint32(b, checksum(b))
}

// decodeMark is the inverse of encode.
func decodeMark(b []byte) (*mark, error) {
	le := binary.LittleEndian
	if len(b) < markHeadSize+4 || string(b[:8]) != markMagic || le.Uint32(b[len(b)-4:]) != checksum(b[:len(b)-4]) {
		return nil, fmt.Errorf("store: mark of damage: %w", ErrCorrupt)
	}
	if v := le.Uint32(b[8:]); v != markVersion {
		return nil, fmt.Errorf("store: mark of damage: %w: it has format %d", ErrVersion, v)
	}
	n, whole := int64(le.Uint32(b[12:])), false
	if n == markWhole {
		n, whole = 0, true
	}
	if n > maxSlots || int64(len(b)) != markHeadSize+4*n+4 {
		return nil, fmt.Errorf("store: mark of damage: %w", ErrCorrupt)
	}
	m := &mark{found: time.Unix(0, int64(le.Uint64(b[16:]))), slots: make([]uint32, n), whole: whole}
	for i := range m.slots {
		m.slots[i] = le.Uint32(b[markHeadSize+4*i:])
		if m.slots[i] >= maxSlots || i > 0 && m.slots[i] <= m.slots[i-1] {
			return nil, fmt.Errorf("store: mark of damage: %w", errors.Join(ErrCorrupt, errors.New("its slots are not in order")))
		}
	}
	return m, nil
}

// has reports whether the chunk in slot is damaged.
func (m *mark) has(slot int) bool {
	if m.whole {
		return true
	}
	_, found := slices.BinarySearch(m.slots, uint32(slot))
	return found
}

// join adds what another mark of the pack says.
func (m *mark) join(o *mark) *mark {
	if m == nil {
		return o
	}
	j := &mark{found: m.found, whole: m.whole || o.whole}
	if !j.whole {
		j.slots = slices.Concat(m.slots, o.slots)
		slices.Sort(j.slots)
		j.slots = slices.Compact(j.slots)
	}
	return j
}

func (m *mark) equal(o *mark) bool {
	return m != nil && o != nil && m.whole == o.whole && slices.Equal(m.slots, o.slots)
}

// slotSet is slots of one pack, a bit each; nil means all of them.
type slotSet []uint64

func (m *mark) set() slotSet {
	if m.whole {
		return nil
	}
	s := slotSet{}
	if n := len(m.slots); n > 0 {
		s = make(slotSet, m.slots[n-1]>>6+1)
	}
	for _, slot := range m.slots {
		s[slot>>6] |= 1 << (slot & 63)
	}
	return s
}

// spoiled says which chunks of which packs are known to be damaged. It does not change.
type spoiled map[PackID]slotSet

// has reports whether the chunk in a slot is known to be damaged.
func (s spoiled) has(pack *PackID, slot int) bool {
	if s == nil {
		return false
	}
	set, ok := s[*pack]
	if !ok || set == nil {
		return ok
	}
	return slot>>6 < len(set) && set[slot>>6]&(1<<(slot&63)) != 0
}
