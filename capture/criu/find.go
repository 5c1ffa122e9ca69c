package criu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
)

// PathVariable names the environment variable that says where CRIU is.
const PathVariable = "ARCSTORE_CRIU"

// ErrUnusable is wrapped by the errors for a CRIU that is missing or too old.
var ErrUnusable = errors.New("no usable CRIU")

// sbin are directories that have CRIU and that users' PATHs often lack.
var sbin = []string{"/usr/sbin", "/usr/local/sbin"}

// Find returns the path of the installed CRIU: what $ARCSTORE_CRIU says, or one in PATH.
func Find() (string, error) {
	if path := os.Getenv(PathVariable); path != "" {
		if _, err := exec.LookPath(path); err != nil {
			return "", fmt.Errorf("criu: %w: $%s names %s, which is no program", ErrUnusable, PathVariable, path)
		}
		return path, nil
	}
	if path, err := exec.LookPath("criu"); err == nil {
		return path, nil
	}
	for _, dir := range sbin {
		if path, err := exec.LookPath(dir + "/criu"); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("criu: %w: it is not installed: install CRIU %v or later and put it in PATH, or set $%s", ErrUnusable, Wanted(), PathVariable)
}

// Version is a version of CRIU, or of Linux.
type Version struct{ Major, Minor, Patch int }

func (v Version) String() string {
	if v.Patch == 0 {
		return fmt.Sprintf("%d.%d", v.Major, v.Minor)
	}
	return fmt.Sprintf("%d.%d.%d", v.Major, v.Minor, v.Patch)
}

// AtLeast reports whether v is w or newer.
func (v Version) AtLeast(w Version) bool {
	if v.Major != w.Major {
		return v.Major > w.Major
	}
	if v.Minor != w.Minor {
		return v.Minor > w.Minor
	}
	return v.Patch >= w.Patch
}

var (
	// oldest is the first release with all that is asked of CRIU here.
	oldest = Version{3, 15, 0}
	// vdsoKnown is the first release that knows the vDSO of newVDSO and later
	// kernels: others fail with "Unexpected rt vDSO area bounds".
	vdsoKnown = Version{4, 1, 0}
	newVDSO   = Version{6, 13, 0}
	// socketsKnown is the first release that dumps Internet sockets of newSockets and later
	// kernels, which deny to have some options: others fail with "Can't get 1:16 opt".
	socketsKnown = Version{4, 2, 0}
	newSockets   = Version{6, 16, 0}
)

var versionNumber = regexp.MustCompile(`(\d+)\.(\d+)(?:\.(\d+))?`)

// ParseVersion returns the first version number in text.
func ParseVersion(text string) (Version, error) {
	m := versionNumber.FindStringSubmatch(text)
	if m == nil {
		return Version{}, fmt.Errorf("criu: %q has no version number", text)
	}
	var v Version
	for i, part := range []*int{&v.Major, &v.Minor, &v.Patch} {
		if m[i+1] == "" {
			continue
		}
		n, err := strconv.Atoi(m[i+1])
		if err != nil {
			return Version{}, fmt.Errorf("criu: version %q: %w", m[0], err)
		}
		*part = n
	}
	return v, nil
}

// VersionOf asks the CRIU at path for its version.
func VersionOf(ctx context.Context, path string) (Version, error) {
	out, err := ask(ctx, path, "--version")
	if err != nil {
		return Version{}, fmt.Errorf("criu: %w: %w", ErrUnusable, err)
	}
	v, err := ParseVersion(out)
	if err != nil || !strings.HasPrefix(out, "Version:") {
		first, _, _ := strings.Cut(out, "\n")
		return Version{}, fmt.Errorf("criu: %w: %s is no CRIU: its --version says %q", ErrUnusable, path, first)
	}
	return v, nil
}

// Usable finds CRIU and makes sure that it is not too old for this kernel.
// The path is found, too, where an error says that the version is wrong.
func Usable(ctx context.Context) (path string, v Version, err error) {
	if path, err = Find(); err != nil {
		return "", v, err
	}
	if v, err = VersionOf(ctx, path); err != nil {
		return path, v, err
	}
	need := oldest
	if kernel, err := Kernel(); err == nil && kernel.AtLeast(newVDSO) {
		need = vdsoKnown
	}
	if !v.AtLeast(need) {
		return path, v, fmt.Errorf("criu: %w: %s is CRIU %v, which is too old for this kernel: install CRIU %v or later", ErrUnusable, path, v, Wanted())
	}
	return path, v, nil
}

// Wanted returns the first release that can do all that this kernel lets it; of a kernel that is not known, of all.
func Wanted() Version {
	kernel, err := Kernel()
	switch {
	case err != nil || kernel.AtLeast(newSockets):
		return socketsKnown
	case kernel.AtLeast(newVDSO):
		return vdsoKnown
	}
	return oldest
}

// Kernel returns the version of the kernel that runs.
func Kernel() (Version, error) { return ParseVersion(kernelRelease()) }

// DumpsSockets reports whether CRIU v can dump Internet sockets on a kernel.
func DumpsSockets(v, kernel Version) bool {
	return v.AtLeast(socketsKnown) || !kernel.AtLeast(newSockets)
}
