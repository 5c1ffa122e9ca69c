package disk

import (
	"errors"
	"path/filepath"
	"testing"
	"testing/synctest"
)

// slowSync is a disk whose syncs of directories wait, and then end with an error.
type slowSync struct {
	Disk
	begun chan struct{}
	end   chan error
}

func (d slowSync) SyncDir(string) error {
	d.begun <- struct{}{}
	return <-d.end
}

// Who finds a directory that another goroutine makes waits until it is durable;
// where it cannot be made so, it is not there.
func TestMakeDirBeside(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new")
	failed := errors.New("no sync")
	synctest.Test(t, func(t *testing.T) {
		d := slowSync{OS, make(chan struct{}), make(chan error)}
		first, second := make(chan error), make(chan error)
		go func() { first <- MakeDir(d, dir) }()
		<-d.begun
		go func() { second <- MakeDir(d, dir) }()
		synctest.Wait() // until it waits, too
		d.end <- failed
		if err := <-first; !errors.Is(err, failed) {
			t.Errorf("the first: %v, want %v", err, failed)
		}
		select {
		case <-d.begun: // the second makes it anew
			d.end <- nil
		case err := <-second:
			t.Fatalf("the second took it for granted: %v", err)
		}
		if err := <-second; err != nil {
			t.Errorf("the second: %v", err)
		}
	})
}
