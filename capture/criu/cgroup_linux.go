package criu

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// joinCgroup moves a process to the cgroup name, below the mount of every
// hierarchy there is, and makes the cgroup where it is not there.
func joinCgroup(name string, pid int) error {
	if !filepath.IsLocal(strings.TrimPrefix(name, "/")) {
		return fmt.Errorf("criu: %q is no path of a cgroup: give one such as machines/web-1", name)
	}
	mounts, err := cgroupMounts()
	if err != nil {
		return fmt.Errorf("criu: %w", err)
	}
	if len(mounts) == 0 {
		return errors.New("criu: no cgroup file system is mounted here")
	}
	for _, mount := range mounts {
		dir := mount
		for element := range strings.SplitSeq(strings.Trim(name, "/"), "/") {
			dir = filepath.Join(dir, element)
			if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
				return fmt.Errorf("criu: cgroup: %w", err)
			}
			if err := inheritCPUs(dir); err != nil {
				return fmt.Errorf("criu: cgroup: %w", err)
			}
		}
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0); err != nil {
			return fmt.Errorf("criu: cgroup: %w", err)
		}
	}
	return nil
}

// inheritCPUs gives a new cgroup of cpuset's first version, which is born
// without a processor and refuses processes, those of its parent.
func inheritCPUs(dir string) error {
	for _, name := range []string{"cpuset.cpus", "cpuset.mems"} {
		own, err := os.ReadFile(filepath.Join(dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if strings.TrimSpace(string(own)) != "" {
			continue
		}
		parents, err := os.ReadFile(filepath.Join(filepath.Dir(dir), name))
		if errors.Is(err, fs.ErrNotExist) || err == nil && strings.TrimSpace(string(parents)) == "" {
			continue // version 2, where empty means the parent's
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), parents, 0)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// cgroupMounts returns where the cgroup hierarchies are mounted, of both versions.
func cgroupMounts() ([]string, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var mounts []string
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		// proc_pid_mountinfo(5): the mount point is the fifth field, the type follows a lone hyphen.
		before, after, ok := strings.Cut(lines.Text(), " - ")
		fields := strings.Fields(before)
		if kind, _, _ := strings.Cut(after, " "); ok && len(fields) >= 5 && (kind == "cgroup" || kind == "cgroup2") {
			mounts = append(mounts, fields[4])
		}
	}
	return mounts, lines.Err()
}
