package processes

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
)

// requireVariable names the environment variable that lists what must not be missing.
const requireVariable = "ARCSTORE_TEST_REQUIRE"

// Missing says that this machine lacks a part.
type Missing struct {
	Part string // as it stands in $ARCSTORE_TEST_REQUIRE
	Text string // what is missing, and how to get it
}

func (m *Missing) Error() string { return m.Text }

// Excuse returns why a test or a benchmark may be skipped, if it may: a part is missing that is not required.
func Excuse(err error) (why string, ok bool) {
	var m *Missing
	if !errors.As(err, &m) || slices.Contains(strings.Split(os.Getenv(requireVariable), ","), m.Part) {
		return "", false
	}
	return m.Text, true
}

// program finds a program.
func program(part, name, get string) (string, error) {
	path, err := exec.LookPath(name)
	if err != nil {
		return "", &Missing{part, fmt.Sprintf("%s is missing: %s", name, get)}
	}
	return path, nil
}

// NeedCRIU fails with a *Missing where no checkpoint can be made.
func NeedCRIU() error {
	if os.Geteuid() != 0 {
		return &Missing{"criu", "checkpoints need root: run the tests as root"}
	}
	if path := os.Getenv("ARCSTORE_CRIU"); path != "" {
		return nil
	}
	_, err := program("criu", "criu", "build CRIU 4.1 or later (README.md says how) and put it in PATH, or set ARCSTORE_CRIU")
	return err
}
