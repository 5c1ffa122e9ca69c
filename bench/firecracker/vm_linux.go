package firecracker

import (
	"encoding/binary"
	"math/rand/v2"
	"os"
	"sync"
	"time"
)

const pageSize = 4096

// States of a guest, as the API has them.
const (
	NotStarted = "Not started"
	Running    = "Running"
	Paused     = "Paused"
)

// vm is the guest, and what Firecracker keeps of it.
type vm struct {
	opts Options
	goOn chan struct{}

	mu        sync.Mutex
	state     string
	memory    []byte
	dirty     []bool // written to since the last snapshot
	pages     int64
	snapshots int
	last      string
	next      string // what is to become of the next snapshot; "" for what should
}

func newVM(opts Options) *vm {
	v := &vm{opts: opts, goOn: make(chan struct{}, 1), state: Running, memory: make([]byte, opts.MemoryMiB<<20), dirty: make([]bool, opts.MemoryMiB<<20/pageSize)}
	if opts.NotStarted {
		v.state = NotStarted
	}
	return v
}

// run writes pages while the guest is not paused: random ones, and zeros.
func (v *vm) run() {
	page := make([]byte, pageSize)
	for {
		v.mu.Lock()
		for range 8 {
			if v.state != Running {
				break
			}
			clear(page)
			if v.pages%5 != 0 {
				for i := 0; i < pageSize; i += 8 {
					binary.LittleEndian.PutUint64(page[i:], rand.Uint64())
				}
			}
			at := rand.IntN(len(v.dirty))
			copy(v.memory[at*pageSize:], page)
			v.dirty[at] = true
			v.pages++
		}
		v.mu.Unlock()
		time.Sleep(500 * time.Microsecond)
	}
}

func (v *vm) status() Status {
	v.mu.Lock()
	defer v.mu.Unlock()
	return Status{State: v.state, Pages: v.pages, Snapshots: v.snapshots, Last: v.last}
}

func (v *vm) told(what string) {
	switch what {
	case ask:
	case Go:
		v.goOn <- struct{}{}
	default:
		v.mu.Lock()
		v.next = what
		v.mu.Unlock()
	}
}

// refusal is an error in Firecracker's words.
type refusal string

func (r refusal) Error() string { return string(r) }

// setState pauses or resumes the guest. To ask twice is no error.
func (v *vm) setState(state string) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.state == NotStarted {
		return errNotStarted
	}
	v.state = state
	return nil
}

const errNotStarted = refusal("The requested operation is not supported before starting the microVM.")

// errFault is what a snapshot that was told to fail fails with.
const errFault = refusal("Cannot create snapshot: Cannot write memory file: No space left on device (os error 28)")

// create writes a snapshot, and returns how the answer is to be spoilt.
func (v *vm) create(kind, statePath, memoryPath string) (spoil string, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.snapshots++
	v.last = kind
	next := v.next
	v.next = ""
	switch {
	case v.state == NotStarted:
		return "", errNotStarted
	case v.state != Paused:
		return "", refusal("Cannot create snapshot: Cannot save the microVM state: Operation not allowed: save/restore unavailable while running")
	case next == Refuse:
		return "", errFault
	}
	if err := os.WriteFile(v.opts.Truth, v.memory, 0o644); err != nil {
		return "", err
	}
	state := v.stateFile()
	if next == Corrupt {
		state[len(state)/2] ^= 4
	}
	if err := os.WriteFile(statePath, state, 0o644); err != nil {
		return "", refusal("Cannot create snapshot: Cannot perform open on the snapshot backing file: " + err.Error())
	}
	if err := v.writeMemory(kind, memoryPath, next == Short); err != nil {
		return "", refusal("Cannot create snapshot: Cannot perform open on the memory backing file: " + err.Error())
	}
	clear(v.dirty)
	if next == Fail {
		return "", errFault
	}
	return next, nil
}

// writeMemory writes all pages, or those that are dirty, over a file of the memory's size.
func (v *vm) writeMemory(kind, path string, short bool) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	size := int64(len(v.memory))
	if info.Size() != size {
		if err := f.Truncate(0); err != nil {
			return err
		}
	}
	if err := f.Truncate(size); err != nil {
		return err
	}
	for page := range v.dirty {
		if kind == "Diff" && !v.dirty[page] && !v.opts.Untracked {
			continue
		}
		if _, err := f.WriteAt(v.memory[page*pageSize:(page+1)*pageSize], int64(page)*pageSize); err != nil {
			return err
		}
	}
	if short {
		if err := f.Truncate(size / 2); err != nil {
			return err
		}
	}
	return f.Sync()
}

// stateFile is a state as Firecracker up to 1.14 writes it: magic, version, what is only Firecracker's business, checksum.
func (v *vm) stateFile() []byte {
	b := binary.LittleEndian.AppendUint64(nil, 0x0710_1984_8664_0000)
	const version = "8.0.0"
	b = binary.LittleEndian.AppendUint64(b, uint64(len(version)))
	b = append(b, version...)
	for range 500 {
		b = binary.LittleEndian.AppendUint64(b, rand.Uint64())
	}
	return binary.LittleEndian.AppendUint64(b, checksum(b))
}

// checksum is CRC-64 with Jones's polynomial, bit by bit.
func checksum(b []byte) (crc uint64) {
	for _, x := range b {
		crc ^= uint64(x)
		for range 8 {
			low := crc & 1
			crc >>= 1
			if low == 1 {
				crc ^= 0x95ac9329ac4bc9b5
			}
		}
	}
	return crc
}
