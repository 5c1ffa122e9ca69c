package schedule

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/netresearch/go-cron"
)

// timetable says when something is due.
type timetable interface {
	// next returns the first time after t; t is the beginning of the last time.
	next(t time.Time) time.Time
	String() string
}

// every is a fixed time after the last one.
type every time.Duration

func (e every) next(t time.Time) time.Time { return t.Add(time.Duration(e)) }
func (e every) String() string             { return "every " + Duration(e).short() }

// calendar is a cron expression in a time zone.
type calendar struct {
	spec  cron.Schedule
	text  string
	zoned *time.Location
}

// next leaves out what the setting back of the clocks repeats, where the expression names its hours.
func (c calendar) next(t time.Time) time.Time {
	t = c.spec.Next(t.In(c.zoned))
	for c.namesHours() && !t.IsZero() && t.Add(-time.Hour).Hour() == t.Hour() {
		t = c.spec.Next(t)
	}
	return t
}

func (c calendar) namesHours() bool {
	const all = 1<<24 - 1
	s, ok := c.spec.(*cron.SpecSchedule)
	return ok && s.Hour&all != all
}

func (c calendar) String() string { return c.text }

func newTimetable(s *Schedule) (timetable, error) {
	switch {
	case (s.Cron == "") == (s.Every == 0):
		return nil, errors.New("give one of cron and every")
	case s.Every != 0:
		if time.Duration(s.Every) < time.Second {
			return nil, fmt.Errorf("every %s is less than a second", time.Duration(s.Every))
		}
		return every(s.Every), nil
	}
	if strings.Contains(s.Cron, "TZ=") || strings.HasPrefix(s.Cron, "@every") {
		return nil, errors.New("cron: a zone is given by time_zone, and a length of time by every")
	}
	spec, err := cron.ParseStandard(s.Cron)
	if err != nil {
		return nil, fmt.Errorf("cron: %q: %w", s.Cron, err)
	}
	c := calendar{spec, s.Cron, s.zone}
	if c.next(time.Now()).IsZero() {
		return nil, fmt.Errorf("cron: %q is never", s.Cron)
	}
	return c, nil
}

// window is a part of each day, in minutes since midnight; where it begins after its end it holds over midnight. The zero value is all of it.
type window struct{ from, to int }

func parseWindow(text string) (w window, err error) {
	if text == "" {
		return w, nil
	}
	from, to, ok := strings.Cut(text, "-")
	if ok {
		w.from, err = parseMinute(from)
		if err == nil {
			w.to, err = parseMinute(to)
		}
	}
	if !ok || err != nil || w.from == w.to {
		return window{}, fmt.Errorf("window %q is no part of a day, such as 01:00-05:00", text)
	}
	return w, nil
}

func parseMinute(text string) (int, error) {
	t, err := time.Parse("15:04", strings.TrimSpace(text))
	if err != nil {
		return 0, err
	}
	return t.Hour()*60 + t.Minute(), nil
}

// open returns t if the window is open then, and when it opens next if not.
func (w window) open(t time.Time) time.Time {
	if w == (window{}) {
		return t
	}
	for day := -1; ; day++ {
		begins, ends := w.on(t, day)
		switch {
		case t.Before(begins):
			return begins
		case t.Before(ends):
			return t
		}
	}
}

// closes returns when the window that is open at t closes; zero is never.
func (w window) closes(t time.Time) time.Time {
	if w == (window{}) {
		return time.Time{}
	}
	for day := -1; ; day++ {
		if _, ends := w.on(t, day); t.Before(ends) {
			return ends
		}
	}
}

// on returns the window that begins so many days after t's.
func (w window) on(t time.Time, day int) (begins, ends time.Time) {
	at := func(day, minute int) time.Time {
		return time.Date(t.Year(), t.Month(), t.Day()+day, minute/60, minute%60, 0, 0, t.Location())
	}
	if w.to <= w.from {
		return at(day, w.from), at(day+1, w.to)
	}
	return at(day, w.from), at(day, w.to)
}
