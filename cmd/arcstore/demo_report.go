package main

import (
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"
)

// demoReport is what the demo found out.
type demoReport struct {
	Source  string     `json:"source"` // what was snapshotted
	Size    int64      `json:"size"`
	Steps   []demoStep `json:"steps"`
	Logical int64      `json:"logical_bytes"` // that the store restores to at its end
	OnDisk  int64      `json:"disk_bytes"`
	Equal   bool       `json:"equal"`
	Dir     string     `json:"dir,omitempty"` // where --keep left all
}

// demoStep is one line: sizes are -1 where they do not apply.
type demoStep struct {
	Name    string        `json:"name"`
	Scanned int64         `json:"bytes_scanned"`
	New     int64         `json:"bytes_new"`
	Stored  int64         `json:"bytes_stored"`
	Took    time.Duration `json:"duration_ns"`
	Remark  string        `json:"remark,omitempty"`
}

// printLine prints a line of the table, whose rows come one by one.
func (d *demo) printLine(name, scanned, fresh, stored, took, remark string) {
	line := fmt.Sprintf("%-27s %9s %9s %9s %9s  %s", name, scanned, fresh, stored, took, remark)
	fmt.Fprintln(d.app.stdout, strings.TrimRight(line, " "))
}

func (d *demo) printStep(s demoStep) {
	d.printLine(s.Name, sizeOrBlank(s.Scanned), sizeOrBlank(s.New), sizeOrBlank(s.Stored), took(s.Took), s.Remark)
}

func (d *demo) printEnd(w io.Writer) {
	fmt.Fprintf(w, "\ntwo snapshots of %s take %s on disk, index and manifests included\n", size(d.size), size(d.report.OnDisk))
	if d.report.Dir != "" {
		fmt.Fprintf(w, "try: arcstore --store %s list\n", filepath.Join(d.report.Dir, "store"))
	}
}

func sizeOrBlank(n int64) string {
	if n < 0 {
		return ""
	}
	return size(n)
}
