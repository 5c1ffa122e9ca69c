package criu

import (
	"slices"

	"google.golang.org/protobuf/encoding/protowire"
)

// A Field is one field of a record.
type Field struct {
	Number protowire.Number
	Kind   protowire.Type
	Value  uint64 // of the kind VarintType
	Bytes  []byte // of the kind BytesType; a part of the record
	raw    []byte // with its tag
}

// Fields calls fn with the fields of a record, in their order, without
// allocating. It is for records that may have very many of them.
func Fields(record []byte, fn func(f Field) error) error {
	for len(record) > 0 {
		number, kind, n := protowire.ConsumeTag(record)
		if n < 0 {
			return protowire.ParseError(n)
		}
		f := Field{Number: number, Kind: kind}
		size := 0
		switch kind {
		case protowire.VarintType:
			f.Value, size = protowire.ConsumeVarint(record[n:])
		case protowire.BytesType:
			f.Bytes, size = protowire.ConsumeBytes(record[n:])
		default:
			size = protowire.ConsumeFieldValue(number, kind, record[n:])
		}
		if size < 0 {
			return protowire.ParseError(size)
		}
		f.raw = record[:n+size]
		if err := fn(f); err != nil {
			return err
		}
		record = record[n+size:]
	}
	return nil
}

// Only returns the record with no other fields than these. It keeps long
// lists that nobody asked for from being decoded.
func Only(record []byte, numbers ...protowire.Number) ([]byte, error) {
	var kept []byte
	err := Fields(record, func(f Field) error {
		if slices.Contains(numbers, f.Number) {
			kept = append(kept, f.raw...)
		}
		return nil
	})
	return kept, err
}
