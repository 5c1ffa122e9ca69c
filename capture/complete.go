package capture

import (
	"fmt"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/pstree"

	"github.com/arcboxlabs/arcstore/capture/criu"
	"github.com/arcboxlabs/arcstore/manifest"
)

// complete makes sure that the images are there without which CRIU restores none of the processes.
func complete(images criu.Images, processes []manifest.Process) error {
	need := func(what, format string, args ...any) error {
		name := fmt.Sprintf(format, args...)
		if images[name] != nil {
			return nil
		}
		return &criu.ImageError{Name: name, Why: "it is missing, and " + what + " cannot be restored without: copy all files of the checkpoint"}
	}
	if images["reg-files.img"] == nil { // as CRIU up to 3.3 had it, beside others
		if err := need("what the processes have open", "files.img"); err != nil {
			return err
		}
	}
	for _, p := range processes {
		what := fmt.Sprintf("process %d", p.PID)
		if err := need(what, "core-%d.img", p.PID); err != nil {
			return err
		}
		if p.State == "zombie" {
			continue // nothing else is left of it
		}
		for _, kind := range []string{"mm", "pagemap", "fs"} {
			if err := need(what, "%s-%d.img", kind, p.PID); err != nil {
				return err
			}
		}
	}
	return images.Each("pstree.img", criu.TypePstree, func(record []byte) error {
		e := &pstree.PstreeEntry{}
		if err := criu.Unmarshal(record, e); err != nil {
			return err
		}
		for _, thread := range e.GetThreads() {
			if err := need(fmt.Sprintf("process %d", e.GetPid()), "core-%d.img", thread); err != nil {
				return err
			}
		}
		return nil
	})
}
