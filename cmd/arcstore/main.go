// Command arcstore keeps snapshots of the memory of virtual machines. Run it
// without arguments for its commands.
package main

import "os"

func main() { os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }
