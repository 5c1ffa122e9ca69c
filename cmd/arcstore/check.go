package main

import (
	"context"
	"io"
	"strings"

	"github.com/arcboxlabs/arcstore"
)

// parseVMM reads NAME=VERSION.
func parseVMM(text string) (name, version string, err error) {
	if text == "" {
		return "", "", nil
	}
	name, version, _ = strings.Cut(text, "=")
	if name == "" {
		return "", "", usagef("--vmm %q is not of the form NAME=VERSION, such as qemu=7.2", text)
	}
	return name, version, nil
}

// runCheck says whether a snapshot can go on here.
func runCheck(ctx context.Context, a *app, id, vmm string) error {
	name, version, err := parseVMM(vmm)
	if err != nil {
		return err
	}
	return a.read(ctx, func(m *arcstore.Manager) error {
		c, err := m.Check(ctx, id, &arcstore.CheckOptions{VMM: name, VMMVersion: version})
		if err != nil {
			return err
		}
		if err := a.result(c, func(w io.Writer) { printCheck(w, c) }); err != nil {
			return err
		}
		return c.Fatal()
	})
}

func printCheck(w io.Writer, c *arcstore.Compatibility) {
	t := newTable("", "TAKEN ON", "HERE")
	taken := c.Taken
	if taken == nil {
		taken = &arcstore.Host{}
	}
	for _, row := range [][3]string{
		{"architecture", taken.Architecture, c.Here.Architecture},
		{"cpu", taken.CPU, c.Here.CPU},
		{"kernel", taken.Kernel, c.Here.Kernel},
		{"vmm", strings.TrimSpace(taken.VMM + " " + taken.VMMVersion), strings.TrimSpace(c.Here.VMM + " " + c.Here.VMMVersion)},
		{"criu", taken.CRIU, c.Here.CRIU},
	} {
		t.add(row[0], orNone(printable(row[1])), orNone(printable(row[2])))
	}
	t.print(w)
	switch {
	case c.Taken == nil:
		io.WriteString(w, "\nnothing is known of what it was taken on\n")
	case len(c.Problems) == 0:
		io.WriteString(w, "\nnothing speaks against it\n")
	}
	for _, p := range c.Problems {
		kind := "perhaps"
		if p.Fatal {
			kind = "no"
		}
		io.WriteString(w, "\n"+kind+": "+printable(p.Why)+"\n")
	}
}
