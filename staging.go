package arcstore

import (
	"fmt"
	"os"
	"path/filepath"
)

// stagingName is the directory in the store where CRIU writes its images,
// which are removed when they are in the store's packs.
const stagingName = "staging"

// stage makes an empty directory for one create.
func (m *Manager) stage(id string) (string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	dir := filepath.Join(m.dir, stagingName, id)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("arcstore: %w", err)
	}
	return dir, nil
}

// unstage removes a create's directory.
func (m *Manager) unstage(dir string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("arcstore: %w", err)
	}
	os.Remove(filepath.Dir(dir)) // fails while others are there
	return nil
}

// dropStaged removes what creates left that died with their process; the
// caller has the lock, and no create runs yet.
func (m *Manager) dropStaged() error {
	if err := os.RemoveAll(filepath.Join(m.dir, stagingName)); err != nil {
		return fmt.Errorf("arcstore: %w", err)
	}
	return nil
}
