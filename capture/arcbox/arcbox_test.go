package arcbox

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/pierrec/lz4/v4"
)

func write(t *testing.T, dir, name string, b []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// packed is memory as lz4_flex's compress_prepend_size gives it.
func packed(t *testing.T, memory []byte) []byte {
	t.Helper()
	block := make([]byte, lz4.CompressBlockBound(len(memory)))
	n, err := lz4.CompressBlock(memory, block, nil)
	if err != nil {
		t.Fatal(err)
	}
	return append(binary.LittleEndian.AppendUint32(nil, uint32(len(memory))), block[:n]...)
}

func TestMemory(t *testing.T) {
	memory := make([]byte, 3<<20)
	rng := rand.NewChaCha8([32]byte{})
	rng.Read(memory[1<<20 : 2<<20])
	dir := t.TempDir()
	write(t, dir, MemoryFile, memory)
	good := packed(t, memory)
	write(t, dir, CompressedFile, good)
	for _, compressed := range []bool{false, true} {
		f, err := OpenMemory(dir, &State{TotalMemory: uint64(len(memory)), Compressed: compressed}, t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(f)
		if f.Close(); err != nil || !bytes.Equal(got, memory) {
			t.Errorf("compressed %v: another memory came back, %v", compressed, err)
		}
	}
	bomb := append(binary.LittleEndian.AppendUint32(nil, 1<<32-1), good[4:]...)
	short := append(binary.LittleEndian.AppendUint32(nil, uint32(len(memory))-1), good[4:]...)
	for what, b := range map[string][]byte{"empty": nil, "cut": good[:len(good)/2], "a bomb": bomb, "another size": short, "noise": memory[1<<20 : 1<<20+5000]} {
		write(t, dir, CompressedFile, b)
		scratch := t.TempDir()
		if _, err := OpenMemory(dir, &State{TotalMemory: uint64(len(memory)), Compressed: true}, scratch); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v", what, err)
		}
		if left, _ := os.ReadDir(scratch); len(left) > 0 {
			t.Errorf("%s: %v is left", what, left)
		}
	}
	if _, err := OpenMemory(dir, &State{TotalMemory: 1 << 20}, ""); !errors.Is(err, ErrDamaged) {
		t.Errorf("a memory of another size than the state says: %v", err)
	}
}

func TestState(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, StateFile, []byte(`{"version": 1, "arch": "X86_64", "vcpus": [{"id": 0, "arch": "X86_64", "x86_regs": {"rax": 7, "rip": 18446744073709551615, "segment": {"base": 1}}, "arm64_regs": null, "extra_state": [0, 255]}],
		"devices": [{"device_type": "Block", "name": "vda", "state": [1, 2, 3]}], "memory_regions": [{"guest_addr": 4096, "size": 8192, "read_only": true, "file_offset": 0}],
		"total_memory": 8192, "compressed": true, "compression": "lz4", "parent_id": null, "later": {"more": 1}}`))
	s, raw, err := ReadState(dir)
	if err != nil {
		t.Fatal(err)
	}
	if r := s.VCPUs[0].Registers(); len(r) != 2 || r["rax"] != 7 || r["rip"] != 1<<64-1 {
		t.Errorf("registers %v", r)
	}
	if !bytes.Equal(s.VCPUs[0].ExtraState, []byte{0, 255}) || !bytes.Equal(s.Devices[0].State, []byte{1, 2, 3}) || s.Regions[0] != (Region{4096, 8192, true, 0}) {
		t.Errorf("%+v", s)
	}
	plain, err := Uncompressed(raw)
	if err != nil || !bytes.Contains(plain, []byte(`"more": 1`)) {
		t.Errorf("%s, %v", plain, err)
	}
	write(t, dir, StateFile, plain)
	if s, _, err := ReadState(dir); err != nil || s.Compressed || s.Compression != nil || len(s.VCPUs) != 1 {
		t.Errorf("%+v, %v", s, err)
	}
	for what, text := range map[string]string{"nothing": "", "a list": "[]", "bytes that are none": `{"version": 1, "total_memory": 1, "devices": [{"device_type": "Block", "name": "", "state": [256]}]}`,
		"text for bytes": `{"version": 1, "total_memory": 1, "devices": [{"device_type": "Block", "name": "", "state": "AAA="}]}`, "no memory": `{"version": 1}`} {
		write(t, dir, StateFile, []byte(text))
		if _, _, err := ReadState(dir); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v", what, err)
		}
	}
	write(t, dir, StateFile, []byte(`{"target_id": "a", "captured_at": "2026-01-02T03:04:05Z", "paused": true, "vcpu_count": 0, "memory_size": 0, "devices": []}`))
	if _, _, err := ReadState(dir); !errors.Is(err, ErrPlaceholder) {
		t.Errorf("a placeholder: %v", err)
	}
}

func FuzzState(f *testing.F) {
	f.Add([]byte(`{"version": 1, "arch": "X86_64", "vcpus": [{"id": 0, "x86_regs": {"rax": 7}, "extra_state": [0]}], "devices": [], "memory_regions": [], "total_memory": 1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := decodeState(b)
		if err != nil {
			return
		}
		for i := range s.VCPUs {
			s.VCPUs[i].Registers()
		}
		if _, err := Uncompressed(b); err != nil {
			t.Error(err)
		}
	})
}
