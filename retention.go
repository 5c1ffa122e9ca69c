package arcstore

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/arcboxlabs/arcstore/manifest"
)

// A Retention says which snapshots of a target a prune keeps: those that any
// of its rules wants. A rule of 0 is none.
//
// KeepLast keeps the newest snapshots. The others divide time into periods
// (hours, days, weeks from Monday, months, years of Location), and keep the
// newest snapshot of each of the newest N periods that have one; periods
// without a snapshot do not count.
//
// Whatever the rules say, a snapshot that is being created stays, and so does a
// target's newest ready one: what is to lose all its snapshots is deleted
// explicitly. A damaged snapshot stays for as long as a sound one in its place would, but
// takes nobody's place.
type Retention struct {
	KeepLast    int `json:"keep_last,omitempty"`
	KeepHourly  int `json:"keep_hourly,omitempty"`
	KeepDaily   int `json:"keep_daily,omitempty"`
	KeepWeekly  int `json:"keep_weekly,omitempty"`
	KeepMonthly int `json:"keep_monthly,omitempty"`
	KeepYearly  int `json:"keep_yearly,omitempty"`

	// KeepLabels keeps every snapshot that one of them fits: "K=V", or "K" for any value.
	KeepLabels []string `json:"keep_labels,omitempty"`

	// Location is the time zone whose hours, days and years count; nil is time.Local.
	Location *time.Location `json:"-"`
}

// A Decision says whether a snapshot stays, and why.
type Decision struct {
	Snapshot *Snapshot `json:"snapshot"`
	Keep     bool      `json:"keep"`
	// Reasons has, of one that stays, a sentence for each rule that wants it
	// ("daily 2 of 7: 2026-11-20"), and of one that goes, for each that does not.
	Reasons []string `json:"reasons"`
}

// rule is one line of a Retention.
type rule struct {
	name  string // "daily"
	unit  string // "days"
	count int
	// period returns what tells a time's period from all others, and what people call it.
	// It is nil for the rule without periods.
	period func(time.Time) (key, name string)
}

// Validate returns an error that wraps ErrInvalid where no plan can be made
// by r: above all, where it would keep nothing.
func (r Retention) Validate() error {
	for _, rule := range r.rules() {
		if rule.count < 0 {
			return fmt.Errorf("arcstore: %w: keep %s: %d is negative", ErrInvalid, rule.name, rule.count)
		}
	}
	for _, selector := range r.KeepLabels {
		if key, _, _ := strings.Cut(selector, "="); key == "" {
			return fmt.Errorf("arcstore: %w: keep label %q: it has no key (give K=V or K)", ErrInvalid, selector)
		}
	}
	if len(r.active()) == 0 && len(r.KeepLabels) == 0 {
		return fmt.Errorf("arcstore: %w: a retention without a single rule would keep nothing; say what to keep", ErrInvalid)
	}
	return nil
}

// Plan decides on snapshots, on each target's by themselves, in any order. The
// decisions come target by target, newest first. It changes nothing.
func (r Retention) Plan(snapshots []*Snapshot) ([]Decision, error) {
	if err := r.Validate(); err != nil {
		return nil, err
	}
	sorted := slices.Clone(snapshots)
	slices.SortFunc(sorted, func(a, b *Snapshot) int {
		return cmp.Or(cmp.Compare(a.TargetID, b.TargetID), b.Created.Compare(a.Created), cmp.Compare(b.ID, a.ID))
	})
	decisions := make([]Decision, 0, len(sorted))
	for len(sorted) > 0 {
		n := 1
		for n < len(sorted) && sorted[n].TargetID == sorted[0].TargetID {
			n++
		}
		decisions = append(decisions, r.planTarget(sorted[:n])...)
		sorted = sorted[n:]
	}
	return decisions, nil
}

// planTarget decides on the snapshots of one target, newest first.
func (r Retention) planTarget(snapshots []*Snapshot) []Decision {
	rules := r.active()
	counters := make([]counter, len(rules))
	for i := range rules {
		counters[i].rule = rules[i]
	}
	newest := true // no ready snapshot was seen yet
	decisions := make([]Decision, 0, len(snapshots))
	for _, s := range snapshots {
		if s.State == manifest.Creating {
			decisions = append(decisions, Decision{Snapshot: s, Keep: true, Reasons: []string{"it is being created"}})
			continue
		}
		ready := s.State == manifest.Ready
		var wanted, unwanted []string
		for i := range counters {
			why, keep := counters[i].visit(r.local(s.Created), ready)
			if keep {
				wanted = append(wanted, why)
			} else {
				unwanted = append(unwanted, why)
			}
		}
		for _, selector := range r.KeepLabels {
			if labelFits(s.Labels, selector) {
				wanted = append(wanted, "label "+selector)
			} else {
				unwanted = append(unwanted, "no label "+selector)
			}
		}
		if ready && newest && len(wanted) == 0 {
			wanted = []string{"newest ready snapshot of its target"}
		}
		newest = newest && !ready
		d := Decision{Snapshot: s, Keep: len(wanted) > 0, Reasons: wanted}
		if !d.Keep {
			d.Reasons = unwanted
		}
		decisions = append(decisions, d)
	}
	return decisions
}

// counter is a rule at work on one target's snapshots, newest first.
type counter struct {
	rule
	used int    // of count
	last string // key of the period that was used last
}

// visit says whether the rule keeps a snapshot of that time, and why. One that is not ready uses nothing up.
func (c *counter) visit(created time.Time, ready bool) (why string, keep bool) {
	key, name := "", ""
	if c.period != nil {
		if key, name = c.period(created); c.used > 0 && key == c.last {
			return fmt.Sprintf("not the newest %s of %s", c.name, name), false
		}
	}
	if c.used == c.count {
		if c.period == nil {
			return fmt.Sprintf("not among the %s %d", c.name, c.count), false
		}
		return fmt.Sprintf("not in the newest %d %s that have one", c.count, c.unit), false
	}
	nth := c.used + 1
	if ready {
		c.used, c.last = nth, key
	}
	why = fmt.Sprintf("%s %d of %d", c.name, nth, c.count)
	if c.period != nil {
		why += ": " + name
	}
	if !ready {
		why += " (damaged, takes no place)"
	}
	return why, true
}

// labelFits reports whether labels have what a selector, "K=V" or "K", asks for.
func labelFits(labels map[string]string, selector string) bool {
	key, want, exact := strings.Cut(selector, "=")
	value, ok := labels[key]
	return ok && (!exact || value == want)
}

// local returns t in the time zone whose periods count.
func (r Retention) local(t time.Time) time.Time {
	if r.Location != nil {
		return t.In(r.Location)
	}
	return t.Local()
}

// active lists the rules that have a count.
func (r Retention) active() []rule {
	return slices.DeleteFunc(r.rules(), func(rule rule) bool { return rule.count == 0 })
}

// rules lists all rules but that of labels, finest first.
func (r Retention) rules() []rule {
	layout := func(key, name string) func(time.Time) (string, string) {
		return func(t time.Time) (string, string) { return t.Format(key), t.Format(name) }
	}
	return []rule{
		{"last", "", r.KeepLast, nil},
		// When clocks go back an hour comes twice: the offset tells the two apart.
		{"hourly", "hours", r.KeepHourly, layout("2006-01-02 15 -0700", "2006-01-02 15:00")},
		{"daily", "days", r.KeepDaily, layout(time.DateOnly, time.DateOnly)},
		{"weekly", "weeks", r.KeepWeekly, func(t time.Time) (string, string) {
			year, week := t.ISOWeek()
			name := fmt.Sprintf("%d-W%02d", year, week)
			return name, name
		}},
		{"monthly", "months", r.KeepMonthly, layout("2006-01", "2006-01")},
		{"yearly", "years", r.KeepYearly, layout("2006", "2006")},
	}
}
