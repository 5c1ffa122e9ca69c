package capture

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"

	"github.com/arcboxlabs/arcstore/capture/criu"
)

// A Choice is one that a Container has, by the name of its field.
type Choice string

// The choices without which some processes cannot be checkpointed.
const (
	ChoiceTCP         Choice = "TCPEstablished"
	ChoiceFileLocks   Choice = "FileLocks"
	ChoiceShellJob    Choice = "ShellJob"
	ChoiceUnixSockets Choice = "ExtUnixSockets"
	ChoiceGhostLimit  Choice = "GhostLimit"
)

// A ChoiceError says that processes can be checkpointed only with a choice that was not made.
type ChoiceError struct {
	Choice Choice
	Why    string // what the processes have
	Least  int64  // of ChoiceGhostLimit: how many bytes it must be, at the least
	Err    error  // CRIU's, or nil
}

func (e *ChoiceError) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("%s: %v", e.Why, e.Err)
	}
	return e.Why
}

// ChoiceDetail is what a ChoiceError has to say besides its text.
type ChoiceDetail struct {
	Choice Choice `json:"choice"`
	Least  int64  `json:"least,omitempty"`
}

// Detail returns what travels of the error beside its text.
func (e *ChoiceError) Detail() any { return ChoiceDetail{e.Choice, e.Least} }

// Unwrap returns CRIU's error.
func (e *ChoiceError) Unwrap() error { return e.Err }

// refusals are what CRIU says when it misses a choice, and what the processes have then.
var refusals = []struct {
	says   *regexp.Regexp
	choice Choice // "" where there is none
	why    string // may have the parts that says names
}{
	{regexp.MustCompile(`Connected TCP socket`), ChoiceTCP, "it has an established TCP connection"},
	{regexp.MustCompile(`file locks`), ChoiceFileLocks, "it holds file locks"},
	{regexp.MustCompile(`shell-job`), ChoiceShellJob, "it belongs to a terminal's session"},
	{regexp.MustCompile(`Found slave peer index`), ChoiceShellJob, "it has a terminal open"},
	{regexp.MustCompile(`ghost file (.+) of (?P<size>\d+) size`), ChoiceGhostLimit, "its file $1 is deleted but open, and has $2 bytes"},
	{regexp.MustCompile(`xternal socket`), ChoiceUnixSockets, "it has a unix socket whose other end is outside"},
	{regexp.MustCompile(`Can't lookup mount=\d+ for fd=([0-2]) path=([^;]*)`), "",
		"its file descriptor $1 is $2, outside of the container: start it with its input and output at /dev/null, or in a file system of the container's"},
}

// explain says of a failed dump what is in its way, where that is known.
func explain(what string, err error) error {
	var failed *criu.FailedError
	if !errors.As(err, &failed) {
		return err
	}
	for _, r := range refusals {
		m := r.says.FindStringSubmatchIndex(failed.Text)
		if m == nil {
			continue
		}
		why := what + ": " + string(r.says.ExpandString(nil, r.why, failed.Text, m))
		if r.choice == "" {
			return fmt.Errorf("%s: %w", why, err)
		}
		least := int64(0)
		if i := r.says.SubexpIndex("size"); i > 0 {
			least, _ = strconv.ParseInt(failed.Text[m[2*i]:m[2*i+1]], 10, 64) // digits; what is too many is the largest number
		}
		return &ChoiceError{Choice: r.choice, Why: why, Least: least, Err: err}
	}
	return fmt.Errorf("%s: %w", what, err)
}
