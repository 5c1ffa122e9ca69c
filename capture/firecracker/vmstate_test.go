package firecracker

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strings"
	"testing"
)

// sealed appends the checksum.
func sealed(b []byte) []byte { return binary.LittleEndian.AppendUint64(bytes.Clone(b), checksum(b)) }

func header(magic uint64, version string) []byte {
	b := binary.LittleEndian.AppendUint64(nil, magic)
	b = binary.LittleEndian.AppendUint64(b, uint64(len(version)))
	return append(append(b, version...), "what only Firecracker knows"...)
}

func TestChecksum(t *testing.T) {
	if got := checksum([]byte("123456789")); got != 0xe9c6d914c4b8d9ca { // as the parameters' authors give it
		t.Errorf("%x", got)
	}
}

func TestCheckState(t *testing.T) {
	for _, test := range []struct {
		file    []byte
		version string
		want    State
		err     string
	}{
		{sealed(header(magicX86, "8.0.0")), "1.14.1", State{"x86_64", "8.0.0"}, ""},
		{sealed(header(magicARM, "1.2.34")), "1.7.0", State{"aarch64", "1.2.34"}, ""},
		{sealed([]byte("in a way of its own")), "1.15.0", State{}, ""},
		{sealed([]byte("in a way of its own")), "1.14.0", State{}, "does not begin"},
		{sealed([]byte("in a way of its own")), "", State{}, "does not begin"},
		{sealed(header(magicX86, "8.0")), "1.14.1", State{}, `version is "8.0"`},
		{sealed(header(magicX86, strings.Repeat("8", 33))), "1.14.1", State{}, "version has 33 bytes"},
		{sealed(binary.LittleEndian.AppendUint64(nil, magicX86)), "1.14.1", State{}, "cut off"},
		{sealed(binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(nil, magicX86), 1<<63)), "1.14.1", State{}, "bytes"},
		{make([]byte, 1000), "1.15.0", State{}, "checksum"},
		{nil, "1.15.0", State{}, "0 bytes"},
		{make([]byte, 8), "1.15.0", State{}, "8 bytes"},
		{make([]byte, MaxState+1), "1.15.0", State{}, "the most"},
	} {
		got, err := CheckState(test.file, test.version)
		if got != test.want || (err == nil) != (test.err == "") || err != nil && (!errors.Is(err, ErrState) || !strings.Contains(err.Error(), test.err)) {
			t.Errorf("%.40q of %s: %+v, %v; want %+v, %q", test.file, test.version, got, err, test.want, test.err)
		}
	}
	whole := sealed(header(magicX86, "8.0.0"))
	for bit := range len(whole) * 8 {
		spoilt := bytes.Clone(whole)
		spoilt[bit/8] ^= 1 << (bit % 8)
		if _, err := CheckState(spoilt, "1.14.0"); !errors.Is(err, ErrState) {
			t.Errorf("with bit %d flipped: %v", bit, err)
		}
	}
	for n := range whole {
		if _, err := CheckState(whole[:n], "1.14.0"); !errors.Is(err, ErrState) {
			t.Errorf("cut to %d bytes: %v", n, err)
		}
	}
}

func FuzzCheckState(f *testing.F) {
	f.Add(header(magicX86, "8.0.0"), "1.14.0")
	f.Add(header(magicARM, ""), "1.16.0-dev")
	f.Fuzz(func(t *testing.T, b []byte, version string) {
		for _, file := range [][]byte{b, sealed(b)} {
			if _, err := CheckState(file, version); err != nil && !errors.Is(err, ErrState) {
				t.Error(err)
			}
		}
	})
}

func TestVersions(t *testing.T) {
	for version, before := range map[string]bool{"1.14.9": true, "1.15.0": false, "v1.15.0": false, "1.15.0-dev": true, "1.16.0-dev-617-g81b38b9da": false,
		"2.0.0": false, "0.25.0": true, "": true, "1.15": true, "one": true, "1.-1.0": true, "1.99999999999.0": true} {
		if got := Before(version, 1, 15); got != before {
			t.Errorf("%q is before 1.15: %v", version, got)
		}
	}
	for _, test := range []struct {
		version            string
		memory, configured int64
		want               bool
	}{
		{"1.14.0", 3 << 30, 3 << 30, true},
		{"1.14.0", 3<<30 + 1<<20, 3<<30 + 1<<20, false},
		{"1.14.0", 2 << 30, 1 << 30, false}, // more was plugged in
		{"1.15.0", 64 << 30, 1 << 30, true},
		{"", 4 << 30, 4 << 30, false},
	} {
		if got := WritesDiffs(test.version, test.memory, test.configured); got != test.want {
			t.Errorf("%+v: %v", test, got)
		}
	}
}
