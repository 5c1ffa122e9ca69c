package arcstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/arcboxlabs/arcstore/capture"
	"github.com/arcboxlabs/arcstore/capture/arcbox"
	"github.com/arcboxlabs/arcstore/manifest"
)

// ImportOptions are the choices of ImportArcbox.
type ImportOptions struct {
	DryRun   bool           `json:"dry_run,omitempty"` // only say what would come
	Progress func(Progress) `json:"-"`
}

// ImportReport says what an import did.
type ImportReport struct {
	DryRun   bool          `json:"dry_run"`
	Imported []string      `json:"imported"` // IDs
	Present  []string      `json:"present"`  // IDs of those that the store has already
	Skipped  []Skipped     `json:"skipped"`
	Duration time.Duration `json:"duration_ns"`
}

// Skipped is a snapshot that was not imported.
type Skipped struct {
	Dir    string     `json:"dir"`
	ID     string     `json:"id,omitempty"`
	Reason SkipReason `json:"reason"`
	Why    string     `json:"why"`
}

// SkipReason is a kind of reason.
type SkipReason string

// The reasons.
const (
	SkipPlaceholder SkipReason = "placeholder" // taken without a state: there is nothing in it
	SkipUnfinished  SkipReason = "unfinished"  // its creation never ended
	SkipInvalid     SkipReason = "invalid"     // its maker called it invalid
	SkipFailed      SkipReason = "failed"      // it is damaged, or cannot be kept as it is
)

// ImportArcbox takes over a tree of snapshots of arcbox-snapshot's, arcstore's predecessor, oldest first, with their IDs, names, labels,
// times and parents. The tree is left as it is. Snapshots that the store has already are passed over, so an import that was cut off
// goes on when it is repeated. Snapshots that cannot be imported are in the report; an error ends it.
func (m *Manager) ImportArcbox(ctx context.Context, dir string, opts *ImportOptions) (report *ImportReport, err error) {
	defer ended(m, "import", dir, time.Now(), &report, &err)
	if opts == nil {
		opts = &ImportOptions{}
	}
	start := time.Now()
	i := &arcboxImport{m: m, opts: opts, report: &ImportReport{DryRun: opts.DryRun, Imported: []string{}, Present: []string{}, Skipped: []Skipped{}}}
	found, err := i.find(dir)
	if err != nil {
		return nil, err
	}
	for _, s := range found {
		if err := i.one(ctx, s); err != nil {
			return i.report, err
		}
	}
	i.report.Duration = time.Since(start)
	return i.report, nil
}

type arcboxImport struct {
	m      *Manager
	opts   *ImportOptions
	report *ImportReport
}

// foundSnapshot is a snapshot's directory.
type foundSnapshot struct {
	dir  string
	info *arcbox.Info
}

// find reads what snapshots there are, oldest first.
func (i *arcboxImport) find(dir string) ([]foundSnapshot, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("arcstore: import: %w", err)
	}
	var found []foundSnapshot
	for _, e := range entries {
		sub := filepath.Join(dir, e.Name())
		info, err := arcbox.ReadInfo(sub)
		switch {
		case errors.Is(err, fs.ErrNotExist), !e.IsDir():
			continue // no snapshot
		case err != nil:
			i.skip(foundSnapshot{dir: sub}, SkipFailed, err)
		default:
			found = append(found, foundSnapshot{sub, info})
		}
	}
	if len(found)+len(i.report.Skipped) == 0 {
		return nil, fmt.Errorf("arcstore: import %s: %w: no directory in it has a %s", dir, ErrInvalid, arcbox.InfoFile)
	}
	slices.SortStableFunc(found, func(a, b foundSnapshot) int {
		return cmp.Or(a.info.Created.Compare(b.info.Created), strings.Compare(a.info.ID, b.info.ID))
	})
	return found, nil
}

func (i *arcboxImport) skip(s foundSnapshot, reason SkipReason, why error) {
	skipped := Skipped{Dir: s.dir, Reason: reason, Why: why.Error()}
	if s.info != nil {
		skipped.ID = s.info.ID
	}
	i.report.Skipped = append(i.report.Skipped, skipped)
}

// one imports a snapshot, or says why not. An error ends the import.
func (i *arcboxImport) one(ctx context.Context, s foundSnapshot) error {
	switch s.info.State {
	case arcbox.Creating:
		i.skip(s, SkipUnfinished, errors.New("its creation never ended"))
		return nil
	case arcbox.Invalid:
		i.skip(s, SkipInvalid, errors.New("it is marked as invalid"))
		return nil
	}
	if err := manifest.ValidID(s.info.ID); err != nil {
		i.skip(s, SkipFailed, err)
		return nil
	}
	if _, err := i.m.catalogue.Get(ctx, s.info.ID); err == nil {
		i.report.Present = append(i.report.Present, s.info.ID)
		return nil
	}
	err := i.capture(ctx, s)
	switch {
	case err == nil:
		i.report.Imported = append(i.report.Imported, s.info.ID)
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, arcbox.ErrPlaceholder):
		i.skip(s, SkipPlaceholder, err)
	case errors.Is(err, arcbox.ErrDamaged), errors.Is(err, fs.ErrNotExist), errors.Is(err, ErrInvalid), errors.Is(err, manifest.ErrInvalid):
		i.skip(s, SkipFailed, err)
	default:
		return fmt.Errorf("arcstore: import %s: %w", s.dir, err)
	}
	return nil
}

// capture takes the snapshot over.
func (i *arcboxImport) capture(ctx context.Context, s foundSnapshot) error {
	info := s.info
	opts := &CreateOptions{Name: info.Name, Labels: info.Labels, Parent: ParentNone, id: info.ID, created: info.Created, Progress: i.opts.Progress}
	if info.Description != nil {
		opts.Description = *info.Description
	}
	if info.Parent != nil {
		if p, err := i.m.catalogue.Get(ctx, *info.Parent); err == nil && p.State == manifest.Ready {
			opts.Parent = p.ID
		}
	}
	if info.TargetType == arcbox.Container {
		if _, err := arcbox.ReadCheckpoint(s.dir); err != nil || i.opts.DryRun {
			return err
		}
		_, err := i.m.CreateContainer(ctx, info.TargetID, &Container{Images: filepath.Join(s.dir, arcbox.ImagesDir)}, opts)
		return err
	}
	state, raw, err := arcbox.ReadState(s.dir)
	if err != nil {
		return err
	}
	if i.opts.DryRun {
		return arcbox.CheckMemory(s.dir, state)
	}
	machine, err := machineOf(state)
	if err != nil {
		return err
	}
	scratch, err := i.m.stage(info.ID)
	if err != nil {
		return err
	}
	defer i.m.unstage(scratch)
	memory, err := arcbox.OpenMemory(s.dir, state, scratch)
	if err != nil {
		return err
	}
	defer memory.Close()
	ram, err := capture.NewFile(memory)
	if err != nil {
		return err
	}
	vm := &VM{Memory: ram, Machine: machine, State: map[string]Source{arcbox.StateFile: capture.Bytes(raw)}}
	_, err = i.m.CreateVM(ctx, info.TargetID, vm, opts)
	return err
}

// architectures maps the predecessor's names.
var architectures = map[string]string{"X86_64": "amd64", "Aarch64": "arm64"}

// machineOf describes a machine as far as its vm_state.json, which stays beside it, says it in words.
func machineOf(s *arcbox.State) (*Machine, error) {
	m := &Machine{Architecture: architectures[s.Arch]}
	if m.Architecture == "" {
		return nil, fmt.Errorf("arcstore: %w: architecture %q", ErrInvalid, s.Arch)
	}
	for _, r := range s.Regions {
		if r.Size > math.MaxInt64 || r.FileOffset > math.MaxInt64 {
			return nil, fmt.Errorf("arcstore: %w: a memory region of %d bytes", arcbox.ErrDamaged, r.Size)
		}
		m.Regions = append(m.Regions, manifest.Region{GuestAddress: r.GuestAddress, Size: int64(r.Size), Offset: int64(r.FileOffset), ReadOnly: r.ReadOnly})
	}
	for i := range s.VCPUs {
		m.VCPUs = append(m.VCPUs, manifest.VCPU{Index: int(s.VCPUs[i].ID), Registers: s.VCPUs[i].Registers()})
	}
	for _, d := range s.Devices {
		m.Devices = append(m.Devices, manifest.Device{Type: strings.Trim(string(d.Type), `"`), Name: d.Name})
	}
	return m, nil
}
