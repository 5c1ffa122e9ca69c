package arcstore_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/arcboxlabs/arcstore"
	"github.com/arcboxlabs/arcstore/manifest"
)

// berlin is a zone whose clocks change, and whose days are not those of UTC.
func berlin(t *testing.T) *time.Location {
	t.Helper()
	zone, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Skip("needs the time zone database: ", err)
	}
	return zone
}

// snapshots makes a ready snapshot of target "vm" of each line "TIME [STATE] [TARGET=…] [K=V]…"; its ID is the line's number from 0.
func snapshots(t *testing.T, zone *time.Location, lines ...string) []*arcstore.Snapshot {
	t.Helper()
	var all []*arcstore.Snapshot
	for i, line := range lines {
		fields := strings.Fields(line)
		created, err := time.ParseInLocation("2006-01-02T15:04", fields[0], zone)
		if err != nil {
			created, err = time.Parse(time.RFC3339, fields[0])
		}
		if err != nil {
			t.Fatal(err)
		}
		s := &arcstore.Snapshot{ID: fmt.Sprint(i), TargetID: "vm", TargetType: manifest.VM, State: manifest.Ready, Created: created.UTC()}
		for _, f := range fields[1:] {
			key, value, ok := strings.Cut(f, "=")
			switch {
			case !ok:
				s.State = manifest.State(f)
			case key == "TARGET":
				s.TargetID = value
			default:
				if s.Labels == nil {
					s.Labels = make(map[string]string)
				}
				s.Labels[key] = value
			}
		}
		all = append(all, s)
	}
	return all
}

func TestRetentionPlan(t *testing.T) {
	tests := []struct {
		name string
		keep arcstore.Retention
		in   []string // oldest first, as people write
		want []string // "ID +|- reasons", target by target, newest first
	}{
		{
			"nothing to decide",
			arcstore.Retention{KeepLast: 1},
			nil,
			nil,
		},
		{
			"last",
			arcstore.Retention{KeepLast: 2},
			[]string{"2026-11-01T10:00", "2026-11-02T10:00", "2026-11-03T10:00"},
			[]string{"2 + last 1 of 2", "1 + last 2 of 2", "0 - not among the last 2"},
		},
		{
			"more than there are",
			arcstore.Retention{KeepLast: 5, KeepYearly: 5},
			[]string{"2026-11-01T10:00", "2026-11-02T10:00"},
			[]string{"1 + last 1 of 5, yearly 1 of 5: 2026", "0 + last 2 of 5"},
		},
		{
			"hourly: the newest of an hour, hours without one do not count",
			arcstore.Retention{KeepHourly: 2},
			[]string{"2026-11-01T08:59", "2026-11-01T09:00", "2026-11-01T09:59", "2026-11-03T10:00"},
			[]string{"3 + hourly 1 of 2: 2026-11-03 10:00", "2 + hourly 2 of 2: 2026-11-01 09:00",
				"1 - not the newest hourly of 2026-11-01 09:00", "0 - not in the newest 2 hours that have one"},
		},
		{
			"daily",
			arcstore.Retention{KeepDaily: 2},
			[]string{"2026-10-31T23:59", "2026-11-01T00:00", "2026-11-01T23:59", "2026-11-09T00:00"},
			[]string{"3 + daily 1 of 2: 2026-11-09", "2 + daily 2 of 2: 2026-11-01",
				"1 - not the newest daily of 2026-11-01", "0 - not in the newest 2 days that have one"},
		},
		{
			"weekly: ISO weeks begin on Monday, and their year is not the calendar's",
			arcstore.Retention{KeepWeekly: 2},
			[]string{"2026-12-27T10:00" /* Sunday, W52 */, "2026-12-28T10:00" /* Monday, W53 */, "2027-01-03T10:00" /* Sunday, W53 */, "2027-01-04T10:00"},
			[]string{"3 + weekly 1 of 2: 2027-W01", "2 + weekly 2 of 2: 2026-W53",
				"1 - not the newest weekly of 2026-W53", "0 - not in the newest 2 weeks that have one"},
		},
		{
			"monthly",
			arcstore.Retention{KeepMonthly: 2},
			[]string{"2026-01-31T10:00", "2026-02-01T10:00", "2026-02-28T10:00", "2027-02-01T10:00"},
			[]string{"3 + monthly 1 of 2: 2027-02", "2 + monthly 2 of 2: 2026-02",
				"1 - not the newest monthly of 2026-02", "0 - not in the newest 2 months that have one"},
		},
		{
			"yearly",
			arcstore.Retention{KeepYearly: 2},
			[]string{"2024-12-31T23:59", "2025-01-01T00:00", "2025-12-31T23:59", "2027-01-01T00:00"},
			[]string{"3 + yearly 1 of 2: 2027", "2 + yearly 2 of 2: 2025",
				"1 - not the newest yearly of 2025", "0 - not in the newest 2 years that have one"},
		},
		{
			"several rules: each counts by itself, and all that want it are named",
			arcstore.Retention{KeepLast: 1, KeepDaily: 2, KeepMonthly: 2},
			[]string{"2026-10-30T10:00", "2026-10-31T10:00", "2026-11-01T10:00", "2026-11-02T09:00", "2026-11-02T10:00"},
			[]string{"4 + last 1 of 1, daily 1 of 2: 2026-11-02, monthly 1 of 2: 2026-11",
				"3 - not among the last 1, not the newest daily of 2026-11-02, not the newest monthly of 2026-11",
				"2 + daily 2 of 2: 2026-11-01",
				"1 + monthly 2 of 2: 2026-10",
				"0 - not among the last 1, not in the newest 2 days that have one, not the newest monthly of 2026-10"},
		},
		{
			"labels: K=V, K, and an empty value",
			arcstore.Retention{KeepLast: 1, KeepLabels: []string{"pin=yes", "release", "note="}},
			[]string{"2026-11-01T01:00 pin=no", "2026-11-01T02:00 pin=yes", "2026-11-01T03:00 release=1.0", "2026-11-01T04:00 note=", "2026-11-01T05:00 note=x", "2026-11-01T06:00"},
			[]string{"5 + last 1 of 1",
				"4 - not among the last 1, no label pin=yes, no label release, no label note=",
				"3 + label note=", "2 + label release", "1 + label pin=yes",
				"0 - not among the last 1, no label pin=yes, no label release, no label note="},
		},
		{
			"a label takes no place in the other rules' counts away",
			arcstore.Retention{KeepLast: 1, KeepLabels: []string{"pin"}},
			[]string{"2026-11-01T01:00 pin=1", "2026-11-01T02:00 pin=1"},
			[]string{"1 + last 1 of 1, label pin", "0 + label pin"},
		},
		{
			"labels alone never take a target's newest ready snapshot",
			arcstore.Retention{KeepLabels: []string{"pin"}},
			[]string{"2026-11-01T01:00", "2026-11-01T02:00", "2026-11-01T03:00 invalid"},
			[]string{"2 - no label pin", "1 + newest ready snapshot of its target", "0 - no label pin"},
		},
		{
			"targets by themselves",
			arcstore.Retention{KeepLast: 1},
			[]string{"2026-11-01T01:00 TARGET=b", "2026-11-01T02:00 TARGET=a", "2026-11-01T03:00 TARGET=b", "2026-11-01T04:00 TARGET=a"},
			[]string{"3 + last 1 of 1", "1 - not among the last 1", "2 + last 1 of 1", "0 - not among the last 1"},
		},
		{
			"one that is being created stays and takes no place",
			arcstore.Retention{KeepLast: 1},
			[]string{"2026-11-01T01:00 creating", "2026-11-01T02:00", "2026-11-01T03:00", "2026-11-01T04:00 creating"},
			[]string{"3 + it is being created", "2 + last 1 of 1", "1 - not among the last 1", "0 + it is being created"},
		},
		{
			"a damaged one stays as a sound one would, and takes no place",
			arcstore.Retention{KeepLast: 2},
			[]string{"2026-11-01T01:00", "2026-11-01T02:00 invalid", "2026-11-01T03:00", "2026-11-01T04:00 invalid", "2026-11-01T05:00"},
			[]string{"4 + last 1 of 2", "3 + last 2 of 2 (damaged, takes no place)", "2 + last 2 of 2",
				"1 - not among the last 2", "0 - not among the last 2"},
		},
		{
			"a damaged one is not the newest of its day",
			arcstore.Retention{KeepDaily: 1},
			[]string{"2026-11-01T01:00", "2026-11-01T02:00 invalid"},
			[]string{"1 + daily 1 of 1: 2026-11-01 (damaged, takes no place)", "0 + daily 1 of 1: 2026-11-01"},
		},
		{
			"of one moment, the greater ID counts as newer",
			arcstore.Retention{KeepLast: 1},
			[]string{"2026-11-01T01:00", "2026-11-01T01:00"},
			[]string{"1 + last 1 of 1", "0 - not among the last 1"},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			test.keep.Location = time.UTC
			in := snapshots(t, time.UTC, test.in...)
			for range 5 {
				checkPlan(t, test.keep, in, test.want)
				rand.Shuffle(len(in), func(i, j int) { in[i], in[j] = in[j], in[i] })
			}
		})
	}
}

func checkPlan(t *testing.T, keep arcstore.Retention, in []*arcstore.Snapshot, want []string) {
	t.Helper()
	before := slices.Clone(in)
	decisions, err := keep.Plan(in)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(in, before) {
		t.Error("Plan changed the order of what it was given")
	}
	var got []string
	for _, d := range decisions {
		sign := "-"
		if d.Keep {
			sign = "+"
		}
		got = append(got, d.Snapshot.ID+" "+sign+" "+strings.Join(d.Reasons, ", "))
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

func TestRetentionLocation(t *testing.T) {
	zone := berlin(t)
	// The evening of the 31st in Berlin and the first minutes of the 1st are one day in UTC.
	in := snapshots(t, zone, "2026-12-31T23:30", "2027-01-01T00:30")
	checkPlan(t, arcstore.Retention{KeepYearly: 2, Location: zone}, in,
		[]string{"1 + yearly 1 of 2: 2027", "0 + yearly 2 of 2: 2026"})
	checkPlan(t, arcstore.Retention{KeepYearly: 2, Location: time.UTC}, in,
		[]string{"1 + yearly 1 of 2: 2026", "0 - not the newest yearly of 2026"})

	// Without one, it is the machine's: that of a process, which is said when it starts.
	if os.Getenv("TZ") != zone.String() {
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		there := exec.Command(self, "-test.run=^TestRetentionLocation$")
		there.Env = append(os.Environ(), "TZ="+zone.String())
		if out, err := there.CombinedOutput(); err != nil {
			t.Errorf("in %s: %v\n%s", zone, err, out)
		}
		return
	}
	checkPlan(t, arcstore.Retention{KeepYearly: 2}, in,
		[]string{"1 + yearly 1 of 2: 2027", "0 + yearly 2 of 2: 2026"})
}

func TestRetentionClockChange(t *testing.T) {
	zone := berlin(t)
	// On 2026-10-25 at 3:00 the clocks go back to 2:00: the hour from 2 to 3 comes twice.
	in := snapshots(t, time.UTC, "2026-10-25T00:10:00Z", "2026-10-25T00:50:00Z", "2026-10-25T01:10:00Z", "2026-10-25T02:10:00Z")
	checkPlan(t, arcstore.Retention{KeepHourly: 9, Location: zone}, in, []string{
		"3 + hourly 1 of 9: 2026-10-25 03:00",
		"2 + hourly 2 of 9: 2026-10-25 02:00",
		"1 + hourly 3 of 9: 2026-10-25 02:00",
		"0 - not the newest hourly of 2026-10-25 02:00",
	})
	// That day has 25 hours, but is one.
	checkPlan(t, arcstore.Retention{KeepDaily: 9, Location: zone}, in, []string{
		"3 + daily 1 of 9: 2026-10-25",
		"2 - not the newest daily of 2026-10-25",
		"1 - not the newest daily of 2026-10-25",
		"0 - not the newest daily of 2026-10-25",
	})
}

func TestRetentionRefused(t *testing.T) {
	for name, keep := range map[string]arcstore.Retention{
		"nothing":       {},
		"nothing, zone": {Location: time.UTC},
		"negative":      {KeepLast: 3, KeepWeekly: -1},
		"no key":        {KeepLast: 3, KeepLabels: []string{"=yes"}},
		"empty label":   {KeepLast: 3, KeepLabels: []string{""}},
	} {
		t.Run(name, func(t *testing.T) {
			decisions, err := keep.Plan(snapshots(t, time.UTC, "2026-11-01T10:00"))
			if !errors.Is(err, arcstore.ErrInvalid) || decisions != nil {
				t.Errorf("Plan = %v, %v; want ErrInvalid", decisions, err)
			}
			if err := keep.Validate(); !errors.Is(err, arcstore.ErrInvalid) {
				t.Errorf("Validate = %v; want ErrInvalid", err)
			}
		})
	}
}

// TestRetentionLaws holds many random plans to what must be true of every one.
func TestRetentionLaws(t *testing.T) {
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 0))
		n := func() int { return max(0, rng.IntN(9)-4) }
		keep := arcstore.Retention{KeepLast: n(), KeepHourly: n(), KeepDaily: n(), KeepWeekly: n(), KeepMonthly: n(), KeepYearly: n(), Location: time.UTC}
		if rng.IntN(3) == 0 {
			keep.KeepLabels = []string{"pin"}
		}
		if keep.Validate() != nil {
			continue
		}
		var lines []string
		for range rng.IntN(60) {
			at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(rng.Int64N(int64(900*24*time.Hour)) >> rng.IntN(12)))
			line := at.Format(time.RFC3339) + []string{" TARGET=a", " TARGET=b"}[rng.IntN(2)]
			line += []string{"", "", "", " pin=1", " invalid", " creating"}[rng.IntN(6)]
			lines = append(lines, line)
		}
		in := snapshots(t, time.UTC, lines...)
		decisions, err := keep.Plan(in)
		if err != nil {
			t.Fatal(err)
		}
		if len(decisions) != len(in) {
			t.Fatalf("seed %d: %d decisions on %d snapshots", seed, len(decisions), len(in))
		}
		var kept []*arcstore.Snapshot
		newest := make(map[string]bool)
		count := make(map[string]int)
		for _, d := range decisions {
			s := d.Snapshot
			if len(d.Reasons) == 0 {
				t.Errorf("seed %d: snapshot %s has no reason", seed, s.ID)
			}
			if d.Keep {
				kept = append(kept, s)
				count[s.TargetID]++
			}
			first := s.State == manifest.Ready && !newest[s.TargetID]
			newest[s.TargetID] = newest[s.TargetID] || first
			if mustStay := first || s.State == manifest.Creating || keep.KeepLabels != nil && s.Labels["pin"] != ""; mustStay && !d.Keep {
				t.Errorf("seed %d: snapshot %s goes: %v", seed, s.ID, d.Reasons)
			}
		}
		// What was pruned once has nothing left to prune.
		again, err := keep.Plan(kept)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range again {
			if !d.Keep {
				t.Errorf("seed %d: a second prune removes snapshot %s: %v", seed, d.Snapshot.ID, d.Reasons)
			}
		}
	}
}

func TestDecisionJSON(t *testing.T) {
	decisions, err := arcstore.Retention{KeepLast: 1}.Plan(snapshots(t, time.UTC, "2026-11-01T10:00"))
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(decisions)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"snapshot":{`, `"target_id":"vm"`, `"keep":true`, `"reasons":["last 1 of 1"]`} {
		if !strings.Contains(string(b), want) {
			t.Errorf("%s lacks %s", b, want)
		}
	}
}

func ExampleRetention_Plan() {
	at := func(day, hour int) time.Time { return time.Date(2026, 11, day, hour, 0, 0, 0, time.UTC) }
	snapshots := []*arcstore.Snapshot{
		{ID: "a1", TargetID: "web-1", State: manifest.Ready, Created: at(1, 9)},
		{ID: "b2", TargetID: "web-1", State: manifest.Ready, Created: at(1, 21)},
		{ID: "c3", TargetID: "web-1", State: manifest.Ready, Created: at(2, 9)},
	}
	decisions, err := arcstore.Retention{KeepLast: 1, KeepDaily: 7, Location: time.UTC}.Plan(snapshots)
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, d := range decisions {
		fmt.Println(d.Snapshot.ID, d.Keep, strings.Join(d.Reasons, ", "))
	}
	// Output:
	// c3 true last 1 of 1, daily 1 of 7: 2026-11-02
	// b2 true daily 2 of 7: 2026-11-01
	// a1 false not among the last 1, not the newest daily of 2026-11-01
}
