package store

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"time"

	"github.com/arcboxlabs/arcstore/chunker"
	"github.com/arcboxlabs/arcstore/store/crypt"
	"github.com/arcboxlabs/arcstore/store/disk"
)

// FormatVersion is the version of the store layout that this package writes,
// and the newest that it reads.
const FormatVersion = 1

const (
	configName = "config.json"
	configCopy = "config.copy" // the same again: without it, no chunk can be read
	packsName  = "packs"
	IndexDir   = "index" // holds derived data alone
	maxConfig  = 1 << 20 // bytes; a larger config.json is not ours
)

// Config is what a store is made with; config.json.
type Config struct {
	Format      int       `json:"format"`
	ID          string    `json:"id"` // 32 hexadecimal digits, random
	Created     time.Time `json:"created"`
	ChunkSize   int       `json:"chunk_size"`  // bytes
	Compression string    `json:"compression"` // of new frames
	// Encryption is nil for a store whose data anybody may read.
	Encryption *Encryption `json:"encryption,omitempty"`
}

// Init makes a store in dir, which must be missing or empty. Zero fields of
// c that a caller may choose (ChunkSize, Compression) get their defaults. A nil disk is the operating system's.
func Init(dir string, c Config, d disk.Disk) (Config, error) {
	return InitEncrypted(dir, c, nil, nil, d)
}

// InitEncrypted is Init for a store with a key, and slots that keep it; nil makes one without encryption.
func InitEncrypted(dir string, c Config, key *crypt.Key, slots []crypt.Slot, d disk.Disk) (Config, error) {
	if d == nil {
		d = disk.OS
	}
	if c.ChunkSize == 0 {
		c.ChunkSize = chunker.MinChunkSize
	}
	if c.Compression == "" {
		c.Compression = LZ4.String()
	}
	if err := chunker.CheckChunkSize(c.ChunkSize); err != nil {
		return c, err
	}
	if _, err := ParseCodec(c.Compression); err != nil {
		return c, err
	}
	if err := disk.MakeDir(d, dir); err != nil {
		return c, fmt.Errorf("store: init: %w", err)
	}
	entries, err := d.ReadDir(dir)
	if err != nil {
		return c, fmt.Errorf("store: init: %w", err)
	}
	for _, e := range entries {
		switch name := e.Name(); {
		case name == configName:
			return c, fmt.Errorf("store: init %s: %w: it is a store already", dir, ErrExists)
		case name != packsName && name != configCopy && !strings.HasPrefix(name, disk.TempPrefix): // an init that was cut off leaves these
			return c, fmt.Errorf("store: init %s: %w: the directory is not empty", dir, ErrExists)
		}
	}
	if _, err := disk.RemoveTemporary(d, dir); err != nil {
		return c, fmt.Errorf("store: init: %w", err)
	}
	var id [16]byte
	rand.Read(id[:])
	c.Format, c.ID, c.Created, c.Encryption = FormatVersion, hex.EncodeToString(id[:]), time.Now().UTC().Truncate(time.Second), nil
	if key != nil {
		c = c.Encrypt(key, slots)
	}
	// The fan-out exists from the start, so that sealing a pack syncs one directory, not two.
	packs := filepath.Join(dir, packsName)
	if err := disk.MakeDir(d, packs); err != nil {
		return c, fmt.Errorf("store: init: %w", err)
	}
	for i := range 256 {
		if err := d.Mkdir(filepath.Join(packs, fmt.Sprintf("%02x", i))); err != nil && !errors.Is(err, fs.ErrExist) {
			return c, fmt.Errorf("store: init: %w", err)
		}
	}
	if err := d.SyncDir(packs); err != nil {
		return c, fmt.Errorf("store: init: %w", err)
	}
	// config.json comes last: a directory without it is no store.
	if err := writeConfig(d, dir, c); err != nil {
		d.Remove(filepath.Join(dir, configName)) // or the next init would find a store
		return c, err
	}
	return c, nil
}

// writeConfig writes the copy first: there is always one that is whole.
func writeConfig(d disk.Disk, dir string, c Config) error {
	b, err := EncodeConfig(c)
	if err != nil {
		return err
	}
	for _, name := range []string{configCopy, configName} {
		if err := disk.WriteFile(d, filepath.Join(dir, name), b, true); err != nil {
			return fmt.Errorf("store: write config: %w", err)
		}
	}
	return nil
}

// ReadConfig reads the config of the store in dir; ErrNoStore if it is none,
// ErrVersion if it was made by a newer version.
func ReadConfig(dir string) (Config, error) { return readConfig(disk.OS, dir) }

func readConfig(d disk.Disk, dir string) (Config, error) {
	c, err := readConfigFile(d, dir, configName)
	if err == nil || errors.Is(err, ErrVersion) {
		return c, err
	}
	if c, cerr := readConfigFile(d, dir, configCopy); cerr == nil {
		return c, nil
	}
	return Config{}, err
}

func readConfigFile(d disk.Disk, dir, file string) (Config, error) {
	name := filepath.Join(dir, file)
	b, err := disk.ReadFile(d, name, maxConfig)
	if errors.Is(err, disk.ErrTooLarge) {
		err = fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return Config{}, fmt.Errorf("store: %s: %w: it has no %s (make one with init)", dir, ErrNoStore, file)
	}
	if err != nil {
		return Config{}, fmt.Errorf("store: read config: %w", err)
	}
	c, err := DecodeConfig(b)
	if err != nil {
		return Config{}, fmt.Errorf("store: %s: %w", name, err)
	}
	return c, nil
}

// VerifyConfig returns which of the config's two files are damaged or missing, and why.
func (s *Store) VerifyConfig() map[string]error {
	bad := make(map[string]error)
	for _, name := range []string{configName, configCopy} {
		if _, err := readConfigFile(s.disk, s.dir, name); err != nil {
			bad[name] = err
		}
	}
	return bad
}

// The end of a config's file: a last member with the CRC-32C of all bytes
// before it. Most flipped bits leave JSON that is as good as any.
const (
	configSumBefore = "  \"checksum\": \""
	configSumAfter  = "\"\n}\n"
	configSumSize   = len(configSumBefore) + 8 + len(configSumAfter)
)

func configSum(b []byte) string {
	return fmt.Sprintf("%s%08x%s", configSumBefore, checksum(b), configSumAfter)
}

// EncodeConfig returns the content of a config.json.
func EncodeConfig(c Config) ([]byte, error) {
	b, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("store: write config: %w", err)
	}
	b = append(b[:len(b)-len("\n}")], ",\n"...)
	return append(b, configSum(b)...), nil
}

// DecodeConfig parses the content of a config.json: ErrCorrupt, ErrVersion.
func DecodeConfig(b []byte) (Config, error) {
	var c Config
	at := len(b) - configSumSize
	if at < 0 || configSum(b[:at]) != string(b[at:]) {
		return c, fmt.Errorf("%w: it has no checksum, or a wrong one", ErrCorrupt)
	}
	// The version is read on its own first: what else a newer format holds may not decode.
	var version struct {
		Format int `json:"format"`
	}
	if err := json.Unmarshal(b, &version); err != nil {
		return c, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	if version.Format > FormatVersion {
		return c, fmt.Errorf("%w: the store has format %d, this program knows up to %d", ErrVersion, version.Format, FormatVersion)
	}
	if err := json.Unmarshal(b, &c); err != nil {
		return c, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	if c.Format < 1 || c.ID == "" {
		return c, fmt.Errorf("%w: it lacks a format version or a store ID", ErrCorrupt)
	}
	if e := c.Encryption; e != nil && (e.KeyID == "" || len(e.Slots) > crypt.MaxSlots) {
		return c, fmt.Errorf("%w: its encryption lacks a key, or has too many", ErrCorrupt)
	}
	if err := chunker.CheckChunkSize(c.ChunkSize); err != nil {
		return c, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	if _, err := ParseCodec(c.Compression); err != nil {
		return c, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return c, nil
}
