package guest

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

func TestCached(t *testing.T) {
	ctx := testContext(t)
	dir := filepath.Join(t.TempDir(), "cache")
	failure := errors.New("cannot build")
	if _, err := cached(ctx, dir, "thing", func(string) error { return failure }); !errors.Is(err, failure) {
		t.Fatal(err)
	}
	// What a killed process leaves is not taken for what it should have become.
	check(t, os.MkdirAll(filepath.Join(dir, "thing.unfinished", "rest"), 0o700))

	var builds int
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			path, err := cached(ctx, dir, "thing", func(dir string) error {
				builds++ // under the lock
				return os.WriteFile(filepath.Join(dir, "file"), nil, 0o600)
			})
			if err != nil {
				t.Error(err)
			}
			if files, _ := os.ReadDir(path); len(files) != 1 || files[0].Name() != "file" {
				t.Errorf("%s holds %v", path, files)
			}
		})
	}
	group.Wait()
	if builds != 1 {
		t.Errorf("built %d times", builds)
	}
}
