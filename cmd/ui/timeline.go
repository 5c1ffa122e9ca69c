package ui

import (
	"math"
	"time"

	"github.com/arcboxlabs/arcstore"
	"github.com/arcboxlabs/arcstore/manifest"
)

const (
	// maxDots is how many snapshots a time line shows; older ones are in the list.
	maxDots = 300

	timelineWidth = 960.0
	timelineEdge  = 12.0
	laneHeight    = 26.0
	barHeight     = 36.0
)

// timeline is a picture of the snapshots of a target: dots in the order of their times, lines to their parents, and a bar for what each added.
type timeline struct {
	Width, Height float64
	Base          float64 // where the bars stand
	Dots          []dot
	Lines         []line
	From, To      time.Time
	Hidden        int
}

type dot struct {
	X, Y     float64
	BarTop   float64
	Bar      float64
	Snapshot *arcstore.Snapshot
	State    string
}

type line struct{ X1, Y1, X2, Y2 float64 }

// newTimeline lays out snapshots, which are sorted by time. A snapshot goes on in the lane of its parent, unless another has already.
func newTimeline(snapshots []*arcstore.Snapshot) *timeline {
	t := &timeline{Width: timelineWidth}
	if n := len(snapshots) - maxDots; n > 0 {
		t.Hidden, snapshots = n, snapshots[n:]
	}
	if len(snapshots) == 0 {
		return t
	}
	t.From, t.To = snapshots[0].Created, snapshots[len(snapshots)-1].Created
	span := t.To.Sub(t.From).Seconds()
	most := 1.0
	for _, s := range snapshots {
		most = max(most, math.Log1p(float64(s.Cost.BytesStored)))
	}
	lanes := 0
	lane := make(map[string]int) // of snapshots
	last := make(map[int]string) // that goes on in a lane
	at := make(map[string]int)   // dots
	for i, s := range snapshots {
		l, ok := lane[s.Parent]
		if !ok || last[l] != s.Parent {
			l = lanes
			lanes++
		}
		lane[s.ID], last[l], at[s.ID] = l, s.ID, i
		x := timelineWidth / 2
		if span > 0 {
			// Half by time and half by order: what came in a burst stays apart.
			byTime := s.Created.Sub(t.From).Seconds() / span
			byOrder := float64(i) / float64(len(snapshots)-1)
			x = timelineEdge + (timelineWidth-2*timelineEdge)*(byTime+byOrder)/2
		}
		t.Dots = append(t.Dots, dot{X: x, Y: laneHeight * (float64(l) + 0.5), Snapshot: s, State: string(s.State),
			Bar: barHeight * math.Log1p(float64(s.Cost.BytesStored)) / most})
	}
	t.Base = laneHeight*float64(lanes) + barHeight + 4
	t.Height = t.Base + 2
	for i := range t.Dots {
		d := &t.Dots[i]
		d.BarTop = t.Base - d.Bar
		if p, ok := at[d.Snapshot.Parent]; ok {
			t.Lines = append(t.Lines, line{t.Dots[p].X, t.Dots[p].Y, d.X, d.Y})
		}
	}
	return t
}

// newestReady returns the last snapshot that is ready; nil for none.
func newestReady(snapshots []*arcstore.Snapshot) *arcstore.Snapshot {
	for i := len(snapshots) - 1; i >= 0; i-- {
		if snapshots[i].State == manifest.Ready {
			return snapshots[i]
		}
	}
	return nil
}
