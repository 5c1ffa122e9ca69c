// Command arcstore keeps snapshots of virtual machines and containers. Run it
// without arguments for its commands.
package main

import (
	"os"
	_ "time/tzdata" // schedules name time zones, and not every machine has them
)

func main() { os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }
