package guest

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
)

// A MissingError says that this machine lacks something that guests are made of or run on: QEMU, apt-get, or a Debian
// package that cannot be had.
type MissingError struct {
	Part string // what is missing: "qemu-system-x86_64", "Debian package redis-server"
	Get  string // the command that gets it: "apt-get install qemu-system-x86"
	Err  error  // what failed, or nil
}

func (e *MissingError) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("no %s (get it with: %s): %v", e.Part, e.Get, e.Err)
	}
	return fmt.Sprintf("no %s (get it with: %s)", e.Part, e.Get)
}

// Unwrap returns what failed.
func (e *MissingError) Unwrap() error { return e.Err }

// RequireVariable names the environment variable that lists, separated by commas, the peers that tests must not skip.
// The peer of this package is "qemu".
const RequireVariable = "ARCSTORE_TEST_REQUIRE"

// Excuse reports whether a test that got err may skip, and the sentence to skip with. It may where err is or wraps a
// [MissingError], unless [RequireVariable] lists qemu: a machine that is meant to run the test must not pass without.
//
//	image, err := guest.Prepare(ctx, "", guest.Counter)
//	if why, ok := guest.Excuse(err); ok {
//		t.Skip(why)
//	}
func Excuse(err error) (why string, ok bool) {
	var missing *MissingError
	if !errors.As(err, &missing) {
		return "", false
	}
	if slices.Contains(strings.Split(os.Getenv(RequireVariable), ","), "qemu") {
		return "", false
	}
	return "needs a real guest: " + missing.Error(), true
}
