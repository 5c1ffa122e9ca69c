package restore

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// Nothing is written outside the directory, whatever links somebody plants there while a restore is at work.
func TestDirStaysInsideMeanwhile(t *testing.T) {
	outside := t.TempDir()
	victim := filepath.Join(outside, "0")
	if err := os.WriteFile(victim, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	table, src := snapshot(t, map[string][]byte{"vcpu/0": memory(1, 100<<10), "vcpu/deep/er/0": memory(2, 50<<10), "memory": memory(3, 1<<20)})
	end := time.Now().Add(2 * time.Second)
	if testing.Short() {
		end = time.Now().Add(300 * time.Millisecond)
	}
	var group sync.WaitGroup
	planted := 0
	group.Go(func() {
		root, err := os.OpenRoot(dir) // or it would follow links of its own
		if err != nil {
			t.Error(err)
			return
		}
		defer root.Close()
		for i := 0; time.Now().Before(end); i++ {
			for _, link := range []struct{ name, to string }{
				{"vcpu", outside}, {"vcpu/deep", outside}, {"vcpu/deep/er", outside}, {"vcpu/0", victim}, {"memory", victim},
				{"vcpu/0" + partialSuffix, victim}, {"memory" + partialSuffix, victim},
			} {
				if i%3 == 0 {
					root.RemoveAll(link.name)
				}
				if root.Symlink(link.to, link.name) == nil {
					planted++
				}
			}
			if i%5 == 0 {
				for _, name := range []string{"vcpu/deep", "vcpu"} {
					root.Remove(name) // lets the restore make it
				}
			}
		}
	})
	restored, failed := 0, 0
	for time.Now().Before(end) {
		if _, err := Dir(context.Background(), table, src, dir, DirOptions{ChunkSize: chunkSize, Force: true}); err == nil {
			restored++
		} else {
			failed++
		}
	}
	group.Wait()
	t.Logf("%d links were planted, %d restores came to their end and %d did not", planted, restored, failed)
	if b, err := os.ReadFile(victim); err != nil || string(b) != "mine" {
		t.Errorf("a file outside was written to: %q, %v", b, err)
	}
	if left, _ := os.ReadDir(outside); len(left) != 1 {
		t.Errorf("%v are outside now", left)
	}
	if planted == 0 || failed == 0 {
		t.Error("the links were not in the way")
	}
}
