package manifest

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// tempPrefix marks files that are being written.
const tempPrefix = ".tmp-"

// createTemp makes a new file beside those that it will be one of.
func createTemp(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	return os.CreateTemp(dir, tempPrefix)
}

// moveInto gives a complete file its name. Where durable, it and its name outlive a loss of power.
func moveInto(f *os.File, name string, durable bool) error {
	err := error(nil)
	if durable {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	dir := filepath.Dir(name)
	made := false
	if err == nil {
		if err = os.Mkdir(dir, 0o700); err == nil {
			made = true
		} else if os.IsExist(err) {
			err = nil
		}
	}
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		os.Remove(f.Name())
		return err
	}
	if durable {
		err = syncDir(dir)
		if made && err == nil {
			err = syncDir(filepath.Dir(dir))
		}
	}
	return err
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if cerr := d.Close(); err == nil {
		err = cerr
	}
	return err
}

// removeDurable removes a file for good.
func removeDurable(name string) error {
	if err := os.Remove(name); err != nil {
		return err
	}
	return syncDir(filepath.Dir(name))
}

// removeTemporary removes the files that writers left behind.
func removeTemporary(dir string) (int, error) {
	entries, err := os.ReadDir(dir)
	if os.IsNotExist(err) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("manifest: %w", err)
	}
	n := 0
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), tempPrefix) {
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
				return n, fmt.Errorf("manifest: %w", err)
			}
			n++
		}
	}
	return n, nil
}

// readBounded reads a file of at most limit bytes.
func readBounded(name string, limit int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		return nil, &CorruptError{File: filepath.Base(name), Why: fmt.Sprintf("it is larger than %d bytes", limit)}
	}
	return b, err
}
