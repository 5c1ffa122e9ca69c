package ui

import (
	"errors"
	"fmt"
	"html/template"
	"net/url"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/arcboxlabs/arcstore/store/control"
)

// functions are what templates may call.
func (u *UI) functions() template.FuncMap {
	return template.FuncMap{
		"size":     func(n int64) string { return humanize.IBytes(uint64(max(0, n))) },
		"count":    humanize.Comma,
		"moment":   u.moment,
		"ago":      func(t time.Time) string { return humanize.Time(t) },
		"took":     took,
		"short":    func(id string) string { return id[:min(8, len(id))] },
		"percent":  percent,
		"path":     func(s string) string { return strings.ReplaceAll(url.PathEscape(s), "%2F", "/") },
		"query":    url.QueryEscape,
		"integer":  func(n int) int64 { return int64(n) },
		"progress": describeProgress,
		"plain":    func(text string) string { return plain(errors.New(text)) },
	}
}

func (u *UI) moment(t time.Time) string {
	if t.IsZero() {
		return "–"
	}
	return t.In(u.opts.Location).Format("2006-01-02 15:04:05")
}

func took(d time.Duration) string {
	switch {
	case d <= 0:
		return "–"
	case d < time.Millisecond:
		return d.Round(time.Microsecond).String()
	case d < time.Minute:
		return d.Round(time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}

func percent(part, whole int64) string {
	if whole <= 0 {
		return "–"
	}
	return fmt.Sprintf("%.0f %%", 100*float64(part)/float64(whole))
}

func describeProgress(p *control.Progress) string {
	switch {
	case p == nil:
		return "begins"
	case p.Total > 0:
		return fmt.Sprintf("%s: %s of %s", p.Phase, humanize.IBytes(uint64(p.Done)), humanize.IBytes(uint64(p.Total)))
	}
	return fmt.Sprintf("%s: %s", p.Phase, humanize.IBytes(uint64(p.Done)))
}
