package firecracker

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc64"

	"github.com/arcboxlabs/arcstore/chunker"
)

// MaxState is how long a state file may be, in bytes; Firecracker itself reads no more than ten million.
const MaxState = 64 << 20

// ErrState is wrapped by the errors for a state file that Firecracker cannot have meant.
var ErrState = errors.New("the state that Firecracker wrote is damaged")

// The magic numbers that state files begin with up to Firecracker 1.14: one for each architecture. From 1.15 on they are
// encoded in a way that is Firecracker's own.
const (
	magicX86 = 0x0710_1984_8664_0000
	magicARM = 0x0710_1984_AAAA_0000
)

// State is what the header of a state file says.
type State struct {
	Architecture string // x86_64 or aarch64; "" where the format does not tell
	Version      string // of the format; "" likewise
}

// jones is the table of the CRC that Firecracker uses, which begins and ends with 0 where Go's begins and ends with ones.
var jones = crc64.MakeTable(0x95ac9329ac4bc9b5)

func checksum(b []byte) uint64 { return ^crc64.Update(^uint64(0), jones, b) }

// CheckState checks a whole state file of a Firecracker of some version: its checksum, and its header where the format is public.
func CheckState(b []byte, version string) (State, error) {
	switch {
	case len(b) <= 8:
		return State{}, fmt.Errorf("%w: it has %d bytes", ErrState, len(b))
	case len(b) > MaxState:
		return State{}, fmt.Errorf("%w: it has %d bytes, and %d are the most", ErrState, len(b), MaxState)
	case checksum(b) != 0 || chunker.IsZero(b): // zeros have the checksum zero
		return State{}, fmt.Errorf("%w: its checksum is wrong", ErrState)
	}
	var s State
	switch binary.LittleEndian.Uint64(b) {
	case magicX86:
		s.Architecture = "x86_64"
	case magicARM:
		s.Architecture = "aarch64"
	default:
		if Before(version, 1, 15) {
			return State{}, fmt.Errorf("%w: it does not begin as one of Firecracker %s", ErrState, version)
		}
		return State{}, nil
	}
	if len(b) < 16+8 {
		return State{}, fmt.Errorf("%w: its header is cut off", ErrState)
	}
	n := binary.LittleEndian.Uint64(b[8:])
	if n > 32 || int(n) > len(b)-24 {
		return State{}, fmt.Errorf("%w: its version has %d bytes", ErrState, n)
	}
	s.Version = string(b[16 : 16+n])
	if _, ok := parseVersion(s.Version); !ok {
		return State{}, fmt.Errorf("%w: its version is %q", ErrState, s.Version)
	}
	return s, nil
}
