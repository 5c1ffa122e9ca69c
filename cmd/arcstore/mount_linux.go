package main

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/arcboxlabs/arcstore"
)

func runMount(cmd *cobra.Command, a *app, opt mountOptions, dir string) error {
	return a.readLong(cmd.Context(), func(m *arcstore.Manager) error {
		m.SetCache(int64(opt.cache))
		var mu sync.Mutex
		mounted, err := m.Mount(dir, &arcstore.MountOptions{AllowOther: opt.allowOther, ReadAhead: int(min(opt.readAhead, 1<<30)), Failed: func(path string, err error) {
			mu.Lock()
			defer mu.Unlock()
			a.warn(fmt.Sprintf("%s cannot be read: %s", path, plain(err)))
		}})
		if err != nil {
			return err
		}
		a.note("the snapshots are at %s", dir)
		done := make(chan struct{})
		go func() {
			mounted.Wait() // somebody else may unmount it, too
			close(done)
		}()
		select {
		case <-done:
			return nil
		case <-cmd.Context().Done():
		}
		for said := false; ; {
			err := mounted.Unmount()
			if !errors.Is(err, arcstore.ErrMountBusy) {
				return err
			}
			if !said {
				a.note("%s is in use: it is unmounted when nobody uses it; a second signal ends this at once, and whoever uses it gets errors", dir)
				said = true
			}
			select {
			case <-done:
				return nil
			case <-time.After(200 * time.Millisecond):
			}
		}
	})
}
