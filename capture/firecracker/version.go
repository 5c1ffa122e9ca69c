package firecracker

import (
	"strconv"
	"strings"
)

// onePart is how much memory of a guest is in one part, in bytes: what is more lies above the devices' addresses.
const onePart = 3 << 30

// WritesDiffs reports whether a version of Firecracker's writes right differences of a guest's memory, which has so many bytes, and had so many when it was
// configured: those of memory in several parts were wrong before 1.15 (https://github.com/firecracker-microvm/firecracker/issues/5705).
func WritesDiffs(version string, memory, configured int64) bool {
	return !Before(version, 1, 15) || memory <= onePart && memory == configured
}

// Before reports whether a version of Firecracker's is older than major.minor. One that says nothing is; so is one on its way to major.minor.
func Before(version string, major, minor int) bool {
	v, ok := parseVersion(version)
	if !ok {
		return true
	}
	if v[0] != major {
		return v[0] < major
	}
	return v[1] < minor || v[1] == minor && strings.Contains(version, "-")
}

func parseVersion(text string) (v [3]int, ok bool) {
	text, _, _ = strings.Cut(text, "-")
	parts := strings.Split(strings.TrimPrefix(text, "v"), ".")
	if len(parts) != 3 {
		return v, false
	}
	for i, p := range parts {
		n, err := strconv.ParseUint(p, 10, 16)
		if err != nil {
			return v, false
		}
		v[i] = int(n)
	}
	return v, true
}
