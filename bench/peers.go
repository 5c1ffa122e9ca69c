package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// A peer is another deduplicating store, in its best settings for memory.
type peer struct {
	program string
	init    func(dir string) []string
	add     func(dir, name, file string) []string
}

var peers = []peer{
	{"restic",
		func(dir string) []string { return []string{"-q", "init", "-r", dir} },
		func(dir, _, file string) []string { return []string{"-q", "-r", dir, "backup", file} }},
	{"borg",
		func(dir string) []string { return []string{"init", "-e", "none", dir} },
		func(dir, name, file string) []string {
			return []string{"create", "-C", "lz4", "--chunker-params", "fixed,4096", dir + "::" + name, file}
		}},
}

// peerBytes returns what the installed peers take for the inputs, by
// "name (bytes)": it tells how much alike the inputs are.
func (b *bench) peerBytes() (map[string]float64, error) {
	taken := make(map[string]float64)
	for _, p := range peers {
		if _, err := exec.LookPath(p.program); err != nil {
			continue
		}
		dir := filepath.Join(b.dir, p.program)
		env := append(os.Environ(), "RESTIC_PASSWORD=bench", "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK=yes", "XDG_CACHE_HOME="+dir+".cache", "BORG_BASE_DIR="+dir+".cache")
		run := func(args []string) error {
			cmd := exec.CommandContext(b.ctx, p.program, args...)
			cmd.Env = env
			if out, err := cmd.CombinedOutput(); err != nil {
				return fmt.Errorf("%s: %w: %s", p.program, err, out)
			}
			return nil
		}
		if err := run(p.init(dir)); err != nil {
			return nil, err
		}
		for i, in := range b.inputs {
			if err := run(p.add(dir, fmt.Sprint("snapshot", i), in)); err != nil {
				return nil, err
			}
		}
		n, err := diskUsage(dir)
		if err != nil {
			return nil, err
		}
		taken[p.program+" (bytes)"] = float64(n)
		for _, left := range []string{dir, dir + ".cache"} {
			if err := os.RemoveAll(left); err != nil {
				return nil, err
			}
		}
	}
	return taken, nil
}
