package crypt

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestVectors compares with the values that the specification of XAES-256-GCM gives.
func TestVectors(t *testing.T) {
	for _, v := range []struct {
		key     byte
		context string
		want    string
	}{
		{1, "", "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271"},
		{3, "c2sp.org/XAES-256-GCM", "986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d"},
	} {
		s := newSealer([32]byte(bytes.Repeat([]byte{v.key}, 32)))
		sealed := s.seal(nil, []byte("ABCDEFGHIJKLMNOPQRSTUVWX"), []byte("XAES-256-GCM"), v.context)
		if got := hex.EncodeToString(sealed[nonceSize:]); got != v.want {
			t.Errorf("key %d: %s, want %s", v.key, got, v.want)
		}
		if text, err := s.Open(nil, sealed, v.context); err != nil || string(text) != "XAES-256-GCM" {
			t.Errorf("key %d: opened %q, %v", v.key, text, err)
		}
	}
}

func TestSealer(t *testing.T) {
	k := NewKey()
	s := k.Sealer("a test")
	text := []byte("a page of memory")
	sealed := s.Seal(nil, text, "here")
	if len(sealed) != len(text)+s.Overhead() || bytes.Contains(sealed, text) {
		t.Fatalf("sealed %q", sealed)
	}
	if bytes.Equal(sealed, s.Seal(nil, text, "here")) {
		t.Error("sealing twice gave the same")
	}
	for i := range len(sealed) * 8 {
		bad := bytes.Clone(sealed)
		bad[i/8] ^= 1 << (i % 8)
		if _, err := s.Open(nil, bad, "here"); !errors.Is(err, ErrTampered) {
			t.Fatalf("bit %d: %v", i, err)
		}
	}
	for n := range len(sealed) {
		if _, err := s.Open(nil, sealed[:n], "here"); !errors.Is(err, ErrTampered) {
			t.Fatalf("cut to %d bytes: %v", n, err)
		}
	}
	for name, open := range map[string]func() ([]byte, error){
		"another context": func() ([]byte, error) { return s.Open(nil, sealed, "there") },
		"another purpose": func() ([]byte, error) { return k.Sealer("another").Open(nil, sealed, "here") },
		"another key":     func() ([]byte, error) { return NewKey().Sealer("a test").Open(nil, sealed, "here") },
	} {
		if _, err := open(); !errors.Is(err, ErrTampered) {
			t.Errorf("%s: %v", name, err)
		}
	}
	var none *Key
	if got := none.Sealer("a test").Seal(nil, text, ""); !bytes.Equal(got, text) {
		t.Errorf("a store without encryption seals to %q", got)
	}
}

func TestSlots(t *testing.T) {
	dir := t.TempDir()
	k := NewKey()
	file := filepath.Join(dir, "key")
	fromFile, err := NewKeyFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := NewKeyFile(file); !errors.Is(err, os.ErrExist) {
		t.Errorf("a key file was replaced: %v", err)
	}
	if info, _ := os.Stat(file); info.Mode().Perm() != 0o600 {
		t.Errorf("the key file's mode is %v", info.Mode())
	}
	again, err := ReadKeyFile(file)
	if err != nil {
		t.Fatal(err)
	}
	pass := Passphrase("correct horse")
	var slots []Slot
	for _, s := range []Secret{fromFile, pass} {
		slot, err := k.NewSlot(s, "a label")
		if err != nil {
			t.Fatal(err)
		}
		slots = append(slots, slot)
	}
	b, err := json.Marshal(slots)
	if err != nil {
		t.Fatal(err)
	}
	slots = nil
	if err := json.Unmarshal(b, &slots); err != nil {
		t.Fatal(err)
	}
	for _, s := range []Secret{again, pass} {
		if got, err := Unlock(k.ID(), slots, s); err != nil || !got.Equal(k) {
			t.Errorf("%s: %v, %v", s.kind, got, err)
		}
	}
	for _, s := range []Secret{Passphrase("wrong"), {kindKeyFile, make([]byte, 32)}} {
		if _, err := Unlock(k.ID(), slots, s); !errors.Is(err, ErrWrongSecret) {
			t.Errorf("a wrong %s: %v", s.kind, err)
		}
	}
	if _, err := Unlock(k.ID(), slots, Secret{}); !errors.Is(err, ErrLocked) {
		t.Errorf("no secret: %v", err)
	}
	if _, err := Unlock(NewKey().ID(), slots, again); !errors.Is(err, ErrWrongSecret) {
		t.Errorf("slots of another key: %v", err)
	}
	slots[0].Label = "another"
	if _, err := Unlock(k.ID(), slots, again); !errors.Is(err, ErrWrongSecret) {
		t.Errorf("a slot whose label was changed: %v", err)
	}
	slots[1].Memory = maxMemory + 1
	if _, err := Unlock(k.ID(), slots, pass); !errors.Is(err, ErrWrongSecret) {
		t.Errorf("a slot that wants too much memory: %v", err)
	}
	if _, err := k.NewSlot(Passphrase("short"), ""); err == nil {
		t.Error("a short passphrase was taken")
	}
}

func TestSecretsDoNotShow(t *testing.T) {
	s := Passphrase("correct horse")
	k := NewKey()
	shown := fmt.Sprintf("%v %+v %#v %s %v %#v", s, s, s, s, k, k)
	if strings.Contains(shown, "correct") || strings.Contains(shown, hex.EncodeToString(k.master[:4])) || strings.Contains(shown, "0x") {
		t.Errorf("they show: %s", shown)
	}
	if b, err := json.Marshal(s); err == nil {
		t.Errorf("JSON of a secret: %s", b)
	}
}

func TestKeyFiles(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "key")
	if _, err := NewKeyFile(name); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	changed := bytes.Clone(good)
	changed[len(keyFileBegin)] ^= 1
	for what, b := range map[string][]byte{"empty": nil, "cut": good[:40], "changed": changed, "random": bytes.Repeat([]byte{7}, 32), "long": bytes.Repeat(good, 100)} {
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadKeyFile(name); !errors.Is(err, ErrKeyFile) {
			t.Errorf("%s: %v", what, err)
		}
	}
}
