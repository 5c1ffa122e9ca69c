package main

import (
	"fmt"
	"io"
	"strconv"

	"github.com/arcboxlabs/arcstore"
)

// printCheckpoint prints what a container's snapshot captured.
func printCheckpoint(w io.Writer, c *arcstore.Checkpoint) {
	fmt.Fprintln(w)
	f := facts{}
	f.add("made by", "%s", orNone(c.Engine))
	if c.Name != "" {
		f.add("container", "%s", c.Name)
	}
	if c.Image != "" {
		f.add("image", "%s", c.Image)
	}
	f.add("CRIU", "%s", orNone(c.CRIU))
	switch {
	case c.OfRuntime():
		f.add("comes back", "with restore --runc NEWID --bundle DIR")
	case c.OwnPIDs():
		f.add("comes back", "with restore --run, or of a container with restore --runc NEWID --bundle DIR")
	default:
		f.add("comes back", "with restore --run")
	}
	f.print(w)
	if len(c.Processes) > 0 {
		fmt.Fprintln(w)
		t := newTable(">PID", ">PARENT", "NAME", "STATE", ">THREADS", ">MAPPED", ">MEMORY")
		for _, p := range c.Processes {
			t.add(strconv.Itoa(p.PID), strconv.Itoa(p.Parent), p.Name, p.State, strconv.Itoa(p.Threads), size(p.Mapped), size(p.Memory))
		}
		t.print(w)
	}
	if len(c.Files) > 0 {
		fmt.Fprintln(w)
		t := newTable(">PID", ">FD", "TYPE", "PATH")
		for _, file := range c.Files {
			t.add(strconv.Itoa(file.PID), strconv.Itoa(file.FD), file.Type, file.Path)
		}
		t.print(w)
	}
	if len(c.Sockets) > 0 {
		fmt.Fprintln(w)
		t := newTable(">PID", ">FD", "FAMILY", "TYPE", "STATE", "LOCAL", "REMOTE")
		for _, s := range c.Sockets {
			t.add(strconv.Itoa(s.PID), strconv.Itoa(s.FD), s.Family, s.Type, s.State, s.Local, s.Remote)
		}
		t.print(w)
	}
}
