package main

import (
	"strings"
	"testing"

	"github.com/arcboxlabs/arcstore"
)

// A gc that needs more than it gives back says so, and never that it freed less than nothing.
func TestPrintGC(t *testing.T) {
	for _, test := range []struct {
		report arcstore.GCReport
		want   string
	}{
		{arcstore.GCReport{BytesFreed: 4096}, "freed           4.0 KiB"},
		{arcstore.GCReport{BytesFreed: -4096}, "grew by         4.0 KiB"},
		{arcstore.GCReport{BytesFreed: -4096, DryRun: true}, "would grow by   4.0 KiB"},
	} {
		var b strings.Builder
		printGC(&b, &test.report)
		if !strings.Contains(b.String(), test.want) {
			t.Errorf("%+v is printed without %q:\n%s", test.report, test.want, b.String())
		}
	}
}
