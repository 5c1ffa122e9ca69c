package main

import (
	"fmt"
	"io"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/dustin/go-humanize"

	"github.com/arcboxlabs/arcstore"
)

// table prints rows in columns. Headings that begin with ">" align their column to the right.
type table struct {
	headings []string
	rows     [][]string
}

func newTable(headings ...string) *table { return &table{headings: headings} }

func (t *table) add(cells ...string) {
	for i := range cells {
		cells[i] = printable(cells[i])
	}
	t.rows = append(t.rows, cells)
}

func (t *table) print(w io.Writer) {
	names := make([]string, len(t.headings))
	right := make([]bool, len(t.headings))
	width := make([]int, len(t.headings))
	for i, h := range t.headings {
		names[i], right[i] = strings.CutPrefix(h, ">")
	}
	lines := append([][]string{names}, t.rows...)
	for _, line := range lines {
		for i, cell := range line {
			width[i] = max(width[i], utf8.RuneCountInString(cell))
		}
	}
	for _, line := range lines {
		var b strings.Builder
		for i, cell := range line {
			pad := strings.Repeat(" ", width[i]-utf8.RuneCountInString(cell))
			if i > 0 {
				b.WriteString("  ")
			}
			if right[i] {
				b.WriteString(pad + cell)
			} else {
				b.WriteString(cell + pad)
			}
		}
		fmt.Fprintln(w, strings.TrimRight(b.String(), " "))
	}
}

// facts prints lines of a name and a value.
type facts struct {
	names, values []string
}

func (f *facts) add(name, format string, args ...any) {
	f.names = append(f.names, name)
	f.values = append(f.values, printable(fmt.Sprintf(format, args...)))
}

func (f *facts) print(w io.Writer) {
	width := 0
	for _, name := range f.names {
		width = max(width, len(name))
	}
	for i, name := range f.names {
		fmt.Fprintf(w, "%-*s  %s\n", width, name, f.values[i])
	}
}

// printable keeps what a name or a label holds from steering the terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return utf8.RuneError
	}, s)
}

// size writes a number of bytes for people.
func size(n int64) string {
	if n < 0 {
		return "-" + size(-n)
	}
	return humanize.IBytes(uint64(n))
}

// count writes a number for people.
func count[T int | int64](n T) string { return humanize.Comma(int64(n)) }

// plural writes a number of things.
func plural[T int | int64](n T, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return count(n) + " " + many
}

// moment writes a time for people.
func moment(t time.Time) string { return t.Local().Format(time.DateTime) }

// took writes a duration for people.
func took(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return d.Round(10 * time.Microsecond).String()
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	}
	return d.Round(10 * time.Millisecond).String()
}

// minShortID is the least number of digits of an ID that a table shows.
const minShortID = 8

// shortIDs returns a function that cuts IDs down to what tells those of snapshots apart.
func shortIDs(snapshots []*arcstore.Snapshot) func(string) string {
	n := minShortID
	seen := make(map[string]bool, len(snapshots))
	for i := 0; i < len(snapshots); i++ {
		id := snapshots[i].ID
		if len(id) <= n {
			continue
		}
		if seen[id[:n]] {
			n, i = n+1, -1
			clear(seen)
			continue
		}
		seen[id[:n]] = true
	}
	return func(id string) string { return id[:min(n, len(id))] }
}
