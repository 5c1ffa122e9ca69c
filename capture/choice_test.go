package capture

import (
	"errors"
	"strings"
	"testing"

	"github.com/arcboxlabs/arcstore/capture/criu"
)

func TestExplain(t *testing.T) {
	for _, test := range []struct {
		says   string
		choice Choice
		least  int64
		want   string
	}{
		{"inet: Connected TCP socket, consider using --tcp-established option.", ChoiceTCP, 0, "process 5: it has an established TCP connection: CRIU says: inet"},
		{"Can't dump ghost file /tmp/a b of 3145728 size, increase limit", ChoiceGhostLimit, 3 << 20, "its file /tmp/a b is deleted but open, and has 3145728 bytes"},
		{"Can't dump ghost file /x of 99999999999999999999 size, increase limit", ChoiceGhostLimit, 1<<63 - 1, "/x"},
		{"tty: Found slave peer index 0 without correspond master peer", ChoiceShellJob, 0, "it has a terminal open"},
		{"Can't lookup mount=27 for fd=2 path=/tmp/err.log; more", "", 0, "descriptor 2 is /tmp/err.log, outside of the container: start it"},
		{"something new", "", 0, "process 5: CRIU says: something new"},
	} {
		err := explain("process 5", &criu.FailedError{Text: test.says})
		var failed *criu.FailedError
		var c *ChoiceError
		if !errors.As(err, &failed) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", test.says, err, test.want)
		}
		if errors.As(err, &c) != (test.choice != "") || c != nil && (c.Choice != test.choice || c.Least != test.least) {
			t.Errorf("%s: %+v, want %s and %d", test.says, c, test.choice, test.least)
		}
	}
}
