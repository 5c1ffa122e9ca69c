package main

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// servedVariable, where it is set, has the program find its store served by another process.
const servedVariable = "ARCSTORE_TEST_SERVED"

// runServed runs the program beside another that serves its store for as long, from another directory and with another time zone.
// Where the store cannot be served, since there is none or it is in use, the program has to do without.
func runServed(args []string) int {
	stop := func() {}
	if dir := storeOf(args); dir != "" && !slices.Contains(args, "serve") {
		var err error
		if stop, err = serveStore(dir); err != nil {
			fmt.Fprintln(os.Stderr, "test:", err)
			return 99
		}
	}
	defer stop()
	return run(args, os.Stdin, os.Stdout, os.Stderr)
}

// storeOf returns the full path of the store that a command line is about, "" for none.
func storeOf(args []string) string {
	dir := os.Getenv(storeVariable)
	for i, arg := range args {
		if value, ok := strings.CutPrefix(arg, "--store="); ok {
			dir = value
		} else if arg == "--store" && i+1 < len(args) {
			dir = args[i+1]
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "config.json")); dir == "" || err != nil {
		return ""
	}
	full, err := filepath.Abs(dir)
	if err != nil {
		return ""
	}
	return full
}

// serveStore starts a process that serves a store, and waits until it does, or ends since it cannot.
func serveStore(dir string) (stop func(), err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	server := exec.Command(self, "serve", "--store", dir)
	server.Args[0] = "arcstore"
	server.Dir = "/"
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, servedVariable+"=") && !strings.HasPrefix(v, "TZ=") {
			server.Env = append(server.Env, v)
		}
	}
	if key := os.Getenv(keyFileVariable); key != "" {
		full, err := filepath.Abs(key)
		if err != nil {
			return nil, err
		}
		server.Env = append(server.Env, keyFileVariable+"="+full)
	}
	server.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := server.StderrPipe()
	if err == nil {
		err = server.Start()
	}
	if err != nil {
		return nil, err
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if strings.Contains(lines.Text(), "answers for") {
			break
		}
	}
	return func() {
		server.Process.Signal(syscall.SIGTERM)
		server.Wait()
	}, nil
}
