package manifest

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	// MemoryStream is the name of the stream that holds guest memory.
	MemoryStream = "memory"
	// MachineStream is the name of the stream that holds a Machine.
	MachineStream = "machine.json"

	maxName = 255 // bytes
)

// ValidName returns an error unless name can be a stream's: a relative path
// of slash-separated elements, none of them empty, "." or "..", without control characters or backslashes.
func ValidName(name string) error { return prefix(checkName(name)) }

// ValidTarget returns an error unless id can be a target's: letters, digits and ._:- with / inside.
func ValidTarget(id string) error { return prefix(checkTarget(id)) }

// ValidID returns an error unless id can be a snapshot's: 1 to 64 of A-Z a-z 0-9 . _ - with no dot first.
func ValidID(id string) error { return prefix(checkID(id)) }

func prefix(err error) error {
	if err != nil {
		return fmt.Errorf("manifest: %w", err)
	}
	return nil
}

func checkName(name string) error {
	bad := func(why string) error { return fmt.Errorf("%w stream name %q: %s", ErrInvalid, name, why) }
	if name == "" || len(name) > maxName {
		return bad("it must have 1 to 255 bytes")
	}
	if !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl) || strings.Contains(name, `\`) {
		return bad("it must be UTF-8 without control characters and backslashes")
	}
	for element := range strings.SplitSeq(name, "/") {
		if element == "" || element == "." || element == ".." {
			return bad(`it must not have empty, "." or ".." elements`)
		}
	}
	return nil
}

func checkTarget(id string) error {
	bad := func(why string) error { return fmt.Errorf("%w target %q: %s", ErrInvalid, id, why) }
	if id == "" || len(id) > maxName {
		return bad("it must have 1 to 255 bytes")
	}
	for _, c := range id {
		if !(unicode.IsLetter(c) || unicode.IsDigit(c) || strings.ContainsRune("._:-/", c)) {
			return bad("it may have letters, digits and . _ : - /")
		}
	}
	if strings.HasPrefix(id, "/") || strings.HasSuffix(id, "/") || strings.Contains(id, "//") {
		return bad("slashes stand between other characters only")
	}
	return nil
}

func checkID(id string) error {
	bad := fmt.Errorf("%w snapshot ID %q: it must have 1 to 64 of A-Z a-z 0-9 . _ - with no dot first", ErrInvalid, id)
	if id == "" || len(id) > 64 || id[0] == '.' {
		return bad
	}
	for i := range len(id) {
		c := id[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '.' || c == '_' || c == '-') {
			return bad
		}
	}
	return nil
}
