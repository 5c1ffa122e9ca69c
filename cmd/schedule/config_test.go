package schedule

import (
	"errors"
	"strings"
	"testing"
	"time"
)

func TestExample(t *testing.T) {
	c, err := ParseConfig([]byte(Example))
	if err != nil {
		t.Fatal(err)
	}
	web := c.Schedules[0]
	if web.Snapshot.QEMU == nil || !web.Snapshot.QEMU.PreCopy || web.Snapshot.Labels["by"] != "schedule" || web.Push.Limit != 20<<20 || web.Keep.Labels[0] != "pin" ||
		*web.Retry.Times != 3 || time.Duration(web.Jitter) != 30*time.Second || web.zone.String() != "Europe/Berlin" {
		t.Errorf("%+v", web)
	}
	if db := c.Schedules[1]; db.Snapshot.Target != "db-1" || db.Snapshot.Files.State["vmstate"] != "/run/vm/db-1.state" || time.Duration(db.Every) != 6*time.Hour {
		t.Errorf("%+v", db)
	}
	if fn, old := c.Schedules[2].Snapshot.Firecracker, c.Schedules[3].Snapshot.Exec; fn.Socket != "/run/vm/fn-1.api" || !fn.Diff || len(old.Command) != 2 {
		t.Errorf("%+v, %+v", fn, old)
	}
	if box := c.Schedules[4]; !box.Snapshot.Container.LeaveRunning || !box.Snapshot.Container.Options.TCPEstablished {
		t.Errorf("%+v", box)
	}
	if v := c.Schedules[6]; !v.Verify.Data || *v.Verify.Percent != 10 || v.window != (window{60, 300}) {
		t.Errorf("%+v", v)
	}
}

func TestBadConfigs(t *testing.T) {
	const files = "snapshot: {files: {memory: /m}}, every: 1h"
	for text, want := range map[string]string{
		"schedules: [{name: a, " + files + ", evry: 1s}]": "evry",
		"schedules: 5":                                                     "sequence",
		"schedules: [{" + files + "}]":                                     "has no name",
		"schedules: [{name: ../a, " + files + "}]":                         "cannot be called",
		"schedules: [{name: a, " + files + "}, {name: a, " + files + "}]":  "two schedules are called a",
		"schedules: [{name: a, every: 1h}]":                                "give one of snapshot, gc",
		"schedules: [{name: a, gc: {}, verify: {}, every: 1h}]":            "give one of snapshot, gc",
		"schedules: [{name: a, gc: {}}]":                                   "give one of cron and every",
		"schedules: [{name: a, gc: {}, cron: '@daily', every: 1h}]":        "give one of cron and every",
		"schedules: [{name: a, gc: {}, every: 1ms}]":                       "less than a second",
		"schedules: [{name: a, gc: {}, every: often}]":                     "no length of time",
		"schedules: [{name: a, gc: {}, cron: '61 * * * *'}]":               "cron",
		"schedules: [{name: a, gc: {}, cron: '0 0 30 2 *'}]":               "is never",
		"schedules: [{name: a, gc: {}, cron: 'TZ=UTC 0 0 * * *'}]":         "time_zone",
		"schedules: [{name: a, gc: {}, every: 1h, window: noon}]":          "no part of a day",
		"schedules: [{name: a, gc: {}, every: 1h, window: '01:00-01:00'}]": "no part of a day",
		"schedules: [{name: a, gc: {}, every: 1h, time_zone: Moon}]":       "no time zone",
		"time_zone: Moon":              "no time zone",
		"webhook: {url: 'gopher://x'}": "webhook",
		"schedules: [{name: a, gc: {}, every: 1h, keep: {last: 1}}]":                        "go with snapshot",
		"schedules: [{name: a, " + files + ", keep: {}}]":                                   "keep",
		"schedules: [{name: a, " + files + ", keep: {last: -1}}]":                           "keep",
		"schedules: [{name: a, " + files + ", push: {}}]":                                   "push: remote",
		"schedules: [{name: a, " + files + ", push: {remote: r, limit: fast}}]":             "no number of bytes",
		"schedules: [{name: a, " + files + ", retry: {times: -1}}]":                         "retry",
		"schedules: [{name: a, snapshot: {files: {memory: m}}, every: 1h}]":                 "not absolute",
		"schedules: [{name: a, snapshot: {}, every: 1h}]":                                   "one of files",
		"schedules: [{name: a, snapshot: {target: 'a b', files: {memory: /m}}, every: 1h}]": "target",
		"schedules: [{name: a, verify: {percent: 10}, every: 1h}]":                          "percent",
		"schedules: [{name: a, remote_gc: {}, every: 1h}]":                                  "remote_gc",
		"a: b: c":        "",
		"--- {}\n--- {}": "more than one document",
	} {
		_, err := ParseConfig([]byte(text))
		if !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
	if _, err := ParseConfig(nil); err != nil {
		t.Errorf("nothing: %v", err)
	}
}

func FuzzConfig(f *testing.F) {
	f.Add([]byte(Example))
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := ParseConfig(text)
		if err != nil && !errors.Is(err, ErrConfig) {
			t.Error(err)
		}
		if err == nil {
			for _, s := range c.Schedules {
				s.clock.next(time.Now())
				s.window.open(time.Now())
			}
		}
	})
}

// TestTimetable: hours that a change of the clocks leaves out or repeats are served once.
func TestTimetable(t *testing.T) {
	zone, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Skip("this machine has no time zones: install tzdata")
	}
	at := func(text string) time.Time {
		v, err := time.ParseInLocation("2006-01-02 15:04", text, zone)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	daily, err := newTimetable(&Schedule{Cron: "30 2 * * *", zone: zone})
	if err != nil {
		t.Fatal(err)
	}
	// 2:30 is not there on 2026-03-29, and is there twice on 2026-10-25.
	for _, day := range []string{"2026-03-28", "2026-10-24"} {
		runs := 0
		for next := daily.next(at(day + " 12:00")); next.Before(at(day + " 12:00").Add(47 * time.Hour)); next = daily.next(next) {
			runs++
		}
		if runs != 2 {
			t.Errorf("after %s: %d runs in two days", day, runs)
		}
	}
}

func TestWindow(t *testing.T) {
	day := time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC)
	at := func(hours float64) time.Time { return day.Add(time.Duration(hours * float64(time.Hour))) }
	for _, test := range []struct {
		text          string
		t, open, ends float64
	}{
		{"01:00-05:00", 0, 1, 5},
		{"01:00-05:00", 1, 1, 5},
		{"01:00-05:00", 4.9, 4.9, 5},
		{"01:00-05:00", 5, 25, 29},
		{"22:00-02:00", 0, 0, 2},
		{"22:00-02:00", 2, 22, 26},
		{"22:00-02:00", 23, 23, 26},
	} {
		w, err := parseWindow(test.text)
		if err != nil {
			t.Fatal(err)
		}
		open := w.open(at(test.t))
		if !open.Equal(at(test.open)) || !w.closes(open).Equal(at(test.ends)) {
			t.Errorf("%s at %v: opens %s, closes %s", test.text, test.t, open, w.closes(open))
		}
	}
}
