package offload

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Version is the protocol's version that a Start names, and the only one there is.
const Version = 0

// MaxDocument bounds a guest's configuration, and its state, in bytes.
const MaxDocument = 256 << 20

var (
	// ErrProtocol is wrapped by the errors for what no Cloud Hypervisor sends, or none that is known here.
	ErrProtocol = errors.New("it does not keep to the offload protocol")
	// ErrAbandoned: the other end gave the guest up, and nothing is wrong with the connection.
	ErrAbandoned = errors.New("given up by Cloud Hypervisor")
	// ErrRefused: the other end answered that it could not do what it was asked for. It does not say why.
	ErrRefused = errors.New("refused by Cloud Hypervisor, whose own log says why")
)

// Command says what a request asks for.
type Command uint16

// The commands, as the protocol numbers them.
const (
	Start          Command = 1 + iota // begin; it names the version
	SendConfig                        // the payload is the guest's configuration
	SendState                         // the payload is the state of vCPUs and devices
	SendMemory                        // memory itself: between hosts, never here
	Complete                          // end; the guest runs at the receiver's
	Abandon                           // end; there is no guest at the receiver's
	SendMemoryFile                    // the payload is a slot, with the file that is its memory
	CompletePaused                    // end; the guest stays paused
	PageFault                         // the payload is a Range of memory that is needed
)

var commandNames = [...]string{Start: "Start", SendConfig: "Config", SendState: "State", SendMemory: "Memory", Complete: "Complete", Abandon: "Abandon",
	SendMemoryFile: "MemoryFd", CompletePaused: "CompletePaused", PageFault: "PageFault"}

// String returns the command's name in Cloud Hypervisor.
func (c Command) String() string {
	if c.known() {
		return commandNames[c]
	}
	return fmt.Sprintf("command %d", uint16(c))
}

func (c Command) known() bool { return c >= Start && c <= PageFault }

// Lengths of messages, in bytes.
const (
	headerSize = 16 // of a request, and of an answer
	rangeSize  = 16
	slotSize   = 4
	roleSize   = 2
)

// Request is the header of a request. A payload of Length bytes follows it.
type Request struct {
	Command Command
	Version uint16 // of a Start; 0 otherwise
	Length  uint64 // bytes
}

// Append appends the request's bytes to b.
func (r Request) Append(b []byte) []byte {
	b = binary.LittleEndian.AppendUint16(b, uint16(r.Command))
	b = binary.LittleEndian.AppendUint16(b, r.Version)
	b = append(b, 0, 0, 0, 0)
	return binary.LittleEndian.AppendUint64(b, r.Length)
}

// ParseRequest reads a request's header, which b is. One that cannot be right wraps ErrProtocol: a command or a version that is not known, or a
// payload of a length that the command does not have.
func ParseRequest(b []byte) (Request, error) {
	if len(b) != headerSize {
		return Request{}, fmt.Errorf("offload: %w: a request has %d bytes, not %d", ErrProtocol, headerSize, len(b))
	}
	r := Request{Command: Command(binary.LittleEndian.Uint16(b)), Length: binary.LittleEndian.Uint64(b[8:])}
	shortest, longest := uint64(0), uint64(0)
	switch r.Command {
	case Start:
		// What follows the version is not defined, and not looked at.
		if r.Version = binary.LittleEndian.Uint16(b[2:]); r.Version != Version {
			return Request{}, fmt.Errorf("offload: %w: it speaks version %d of it, and version %d is known here", ErrProtocol, r.Version, Version)
		}
	case SendConfig, SendState:
		shortest, longest = 1, MaxDocument
	case SendMemory:
		longest = r.Length
	case SendMemoryFile:
		shortest, longest = slotSize, slotSize
	case PageFault:
		shortest, longest = rangeSize, rangeSize
	case Complete, CompletePaused, Abandon:
	default:
		return Request{}, fmt.Errorf("offload: %w: it sent the %s, which is not known here", ErrProtocol, r.Command)
	}
	if r.Length < shortest || r.Length > longest {
		return Request{}, fmt.Errorf("offload: %w: it sent a %s of %d bytes, which has %d to %d", ErrProtocol, r.Command, r.Length, shortest, longest)
	}
	return r, nil
}

// The words that begin an answer.
const (
	statusOK    = 1
	statusError = 2
)

// appendAnswer appends an answer without a payload to b.
func appendAnswer(b []byte, ok bool) []byte {
	status := uint16(statusError)
	if ok {
		status = statusOK
	}
	b = binary.LittleEndian.AppendUint16(b, status)
	return append(b, make([]byte, headerSize-2)...)
}

// parseAnswer reads an answer, which b is: nil, or an error that wraps ErrRefused or ErrProtocol. Memory is shared, so no answer has a payload.
func parseAnswer(b []byte) error {
	if len(b) != headerSize {
		return fmt.Errorf("offload: %w: an answer has %d bytes, not %d", ErrProtocol, headerSize, len(b))
	}
	status, length := binary.LittleEndian.Uint16(b), binary.LittleEndian.Uint64(b[8:])
	switch {
	case length != 0:
		return fmt.Errorf("offload: %w: its answer announces %d bytes, and has none", ErrProtocol, length)
	case status == statusOK:
		return nil
	case status == statusError:
		return ErrRefused
	}
	return fmt.Errorf("offload: %w: its answer has the status %d", ErrProtocol, status)
}

// Range is a part of the guest's memory.
type Range struct {
	GPA    uint64 // guest-physical address
	Length uint64 // bytes
}

// Append appends the range's bytes to b.
func (r Range) Append(b []byte) []byte {
	return binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(b, r.GPA), r.Length)
}

// ParseRange reads a range, which b is. Whether the guest has it is not looked at: that is for Config.Find.
func ParseRange(b []byte) (Range, error) {
	if len(b) != rangeSize {
		return Range{}, fmt.Errorf("offload: %w: a range has %d bytes, not %d", ErrProtocol, rangeSize, len(b))
	}
	return Range{GPA: binary.LittleEndian.Uint64(b), Length: binary.LittleEndian.Uint64(b[8:])}, nil
}

// Role is the first word on a connection that is not the first one.
type Role uint16

// The roles of such connections.
const (
	RoleMemory Role = 1 // memory between hosts, never here
	RoleFaults Role = 2 // page faults: who receives the guest asks, and who sent it answers
)
