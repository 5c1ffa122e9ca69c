package ui

import (
	"bytes"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"math"
	"net/http"
	"slices"

	"github.com/arcboxlabs/arcstore"
	"github.com/arcboxlabs/arcstore/cmd/schedule"
	"github.com/arcboxlabs/arcstore/manifest"
	"github.com/arcboxlabs/arcstore/store/control"
)

const (
	// maxRows is how many snapshots a page lists.
	maxRows = 200
	// pictureSide is how many cells a picture of memory has in each direction.
	pictureSide = 128
)

// targetView is a target in the overview.
type targetView struct {
	Name     string
	Kind     string
	Count    int
	Newest   *arcstore.Snapshot
	Stored   int64 // by all of its snapshots, when they were taken
	Damaged  int
	Timeline *timeline
}

type overviewPage struct {
	Stats     *arcstore.Stats
	Targets   []targetView
	Sharing   *sharingView
	Schedules []schedule.Status
	Jobs      jobsView
}

// jobsView is what runs, and what ended lately.
type jobsView struct {
	Running []control.Job
	Results []result
}

func (u *UI) jobsNow() jobsView {
	u.mu.Lock()
	defer u.mu.Unlock()
	return jobsView{u.opts.Jobs.List(), slices.Clone(u.results)}
}

func (u *UI) overview(w http.ResponseWriter, r *http.Request) {
	ctx := r.Context()
	stats, err := u.opts.Store.Stats(ctx)
	if err != nil {
		u.fail(w, r, http.StatusInternalServerError, err)
		return
	}
	all, err := u.opts.Store.List(ctx, "")
	if err != nil {
		u.fail(w, r, http.StatusInternalServerError, err)
		return
	}
	page := overviewPage{Stats: stats, Schedules: u.opts.Runner.List(), Jobs: u.jobsNow()}
	byTarget := make(map[string][]*arcstore.Snapshot)
	var names []string
	for _, s := range all {
		if byTarget[s.TargetID] == nil {
			names = append(names, s.TargetID)
		}
		byTarget[s.TargetID] = append(byTarget[s.TargetID], s)
	}
	slices.Sort(names)
	for _, name := range names {
		list := byTarget[name]
		v := targetView{Name: name, Kind: string(list[0].TargetType), Count: len(list), Newest: newestReady(list), Timeline: newTimeline(list)}
		for _, s := range list {
			v.Stored += s.Cost.BytesStored
			if s.State == manifest.Invalid {
				v.Damaged++
			}
		}
		page.Targets = append(page.Targets, v)
	}
	if sharing, err := u.opts.Store.Sharing(ctx); err == nil { // without it, the page has the rest
		page.Sharing = newSharingView(sharing)
	}
	u.render(w, r, "overview", page)
}

// jobs is the part of the overview that changes while somebody looks.
func (u *UI) jobs(w http.ResponseWriter, _ *http.Request) {
	var b bytes.Buffer
	if err := u.pages["overview"].ExecuteTemplate(&b, "jobs", u.jobsNow()); err != nil {
		http.Error(w, "this cannot be shown", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	b.WriteTo(w)
}

// sharingView is a table of what targets have in common.
type sharingView struct {
	Targets []string
	Rows    []sharingRow
}

type sharingRow struct {
	Target string
	Cells  []sharingCell
}

type sharingCell struct {
	Bytes int64
	Part  int // of what the row's target has, in percent
	Own   bool
}

// maxSharing is how many targets the table has.
const maxSharing = 12

func newSharingView(s *arcstore.Sharing) *sharingView {
	n := min(len(s.Targets), maxSharing)
	if n < 2 {
		return nil
	}
	v := &sharingView{Targets: s.Targets[:n]}
	for i := range n {
		row := sharingRow{Target: s.Targets[i]}
		for j := range n {
			c := sharingCell{Bytes: s.Shared[i][j], Own: i == j}
			if own := s.Shared[i][i]; own > 0 {
				c.Part = int(100 * c.Bytes / own)
			}
			row.Cells = append(row.Cells, c)
		}
		v.Rows = append(v.Rows, row)
	}
	return v
}

type targetPage struct {
	Name      string
	Timeline  *timeline
	Snapshots []*arcstore.Snapshot // the newest first
	Hidden    int
	Schedules []schedule.Status
}

func (u *UI) target(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("target")
	list, err := u.opts.Store.List(r.Context(), name)
	if err == nil && len(list) == 0 {
		err = fmt.Errorf("%w of target %q", arcstore.ErrNotFound, name)
	}
	if err != nil {
		u.fail(w, r, http.StatusInternalServerError, err)
		return
	}
	page := targetPage{Name: name, Timeline: newTimeline(list)}
	for _, s := range u.opts.Runner.List() {
		if s.Subject == name {
			page.Schedules = append(page.Schedules, s)
		}
	}
	slices.Reverse(list)
	if n := len(list) - maxRows; n > 0 {
		list, page.Hidden = list[:maxRows], n
	}
	page.Snapshots = list
	u.render(w, r, "target", page)
}

type snapshotPage struct {
	*arcstore.Snapshot
	Streams  []arcstore.StreamInfo
	Machine  *arcstore.Machine
	Children []*arcstore.Snapshot
	Siblings []*arcstore.Snapshot // it can be compared with
	With     string
	Diff     *arcstore.DiffReport
	Pictured string // the stream
	Why      string // there is no more to see
}

func (u *UI) snapshot(w http.ResponseWriter, r *http.Request) {
	ctx := r.Context()
	e, err := u.opts.Store.Get(ctx, r.PathValue("id"))
	if err != nil {
		u.fail(w, r, http.StatusInternalServerError, err)
		return
	}
	page := snapshotPage{Snapshot: e, With: r.FormValue("with")}
	all, err := u.opts.Store.List(ctx, "")
	if err != nil {
		u.fail(w, r, http.StatusInternalServerError, err)
		return
	}
	for _, s := range slices.Backward(all) {
		if s.Parent == e.ID {
			page.Children = append(page.Children, s)
		}
		if s.ID != e.ID && s.State == manifest.Ready && len(page.Siblings) < maxRows {
			page.Siblings = append(page.Siblings, s)
		}
	}
	if err := u.readSnapshot(r, &page); err != nil {
		page.Why = plain(err)
	}
	u.render(w, r, "snapshot", page)
}

// readSnapshot reads what the catalogue does not have.
func (u *UI) readSnapshot(r *http.Request, page *snapshotPage) error {
	ctx := r.Context()
	s, err := u.opts.Store.OpenSnapshot(ctx, page.ID)
	if err != nil {
		return err
	}
	defer s.Close()
	if page.Streams, err = s.Streams(ctx); err != nil {
		return err
	}
	var largest int64 = -1
	for _, info := range page.Streams {
		if info.Size > largest {
			largest, page.Pictured = info.Size, info.Name
		}
	}
	if page.Machine, err = s.Machine(ctx); err != nil {
		return err
	}
	with := page.With
	if with == "" {
		with = page.Parent
	}
	if with != "" {
		page.Diff, err = u.opts.Store.Diff(ctx, with, page.ID)
		if err != nil && page.With == "" {
			err = nil // a parent may be gone
		}
	}
	return err
}

// The colours of a picture; what is zero shows the page behind it.
var (
	inheritedColour = color.NRGBA{0x4f, 0x81, 0xd9, 0xff}
	sharedColour    = color.NRGBA{0x2a, 0xa1, 0x76, 0xff}
	newColour       = color.NRGBA{0xe6, 0x6f, 0x2e, 0xff}
)

// picture draws the memory of a snapshot: the lowest address is in the upper left corner.
func (u *UI) picture(w http.ResponseWriter, r *http.Request) {
	p, err := u.opts.Store.Picture(r.Context(), r.PathValue("id"), r.FormValue("stream"), pictureSide*pictureSide, r.FormValue("with"))
	if err != nil {
		u.fail(w, r, http.StatusInternalServerError, err)
		return
	}
	side := min(pictureSide, max(1, int(math.Ceil(math.Sqrt(float64(len(p.Cells)))))))
	img := image.NewNRGBA(image.Rect(0, 0, side, max(1, (len(p.Cells)+side-1)/side)))
	for i, c := range p.Cells {
		img.SetNRGBA(i%side, i/side, blend(c))
	}
	var b bytes.Buffer
	if err := png.Encode(&b, img); err != nil {
		u.fail(w, r, http.StatusInternalServerError, err)
		return
	}
	w.Header().Set("Content-Type", "image/png")
	b.WriteTo(w)
}

// blend mixes the colours of what a cell has; the more of it is zero, the less there is to see.
func blend(c arcstore.Cell) color.NRGBA {
	parts := []struct {
		n  int
		of color.NRGBA
	}{{int(c.Inherited), inheritedColour}, {int(c.Shared), sharedColour}, {int(c.New), newColour}}
	var r, g, b, sum int
	for _, p := range parts {
		r, g, b, sum = r+p.n*int(p.of.R), g+p.n*int(p.of.G), b+p.n*int(p.of.B), sum+p.n
	}
	if sum == 0 {
		return color.NRGBA{}
	}
	return color.NRGBA{uint8(r / sum), uint8(g / sum), uint8(b / sum), uint8(min(255, 64+sum*191/255))}
}
