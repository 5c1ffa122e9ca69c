package criu

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"time"
)

// hangTime is how long after its end a program's output may stay open, held by children that it left.
const hangTime = time.Second

// said is a line that CRIU writes about what it found, as in "Warn  (criu/cr-check.c:824): Dirty tracking is OFF".
var said = regexp.MustCompile(`^(Error|Warn) +\([^)]*\): *(.*)$`)

// ask runs the CRIU at path and returns what it wrote to stdout. The error of one
// that fails has what it complained of, for which it uses both streams.
func ask(ctx context.Context, path string, args ...string) (string, error) {
	var out, log bytes.Buffer
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.Stdout, cmd.Stderr = &out, &log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) } // its children, too
	cmd.WaitDelay = hangTime
	err := cmd.Run()
	if err == nil {
		return out.String(), nil
	}
	err = fmt.Errorf("%s %s: %w", path, strings.Join(args, " "), err)
	switch text := complaint(log.String() + "\n" + out.String()); {
	case ctx.Err() != nil:
		err = fmt.Errorf("%s %s: %w", path, strings.Join(args, " "), ctx.Err())
	case text != "":
		err = fmt.Errorf("%w: %w", err, &FailedError{Text: text})
	}
	return "", err
}

// complaint returns on one line what CRIU complains of: its first errors, or else
// what it wrote without a mark, or else its last warning.
func complaint(output string) string {
	var texts []string
	var plain, warning string
	for line := range strings.Lines(strings.ToValidUTF8(output, "?")) {
		line = strings.TrimSpace(line)
		switch m := said.FindStringSubmatch(line); {
		case m == nil && plain == "":
			plain = strings.TrimSuffix(line, ":")
		case m == nil || m[2] == "":
		case m[1] == "Warn":
			warning = m[2]
		case len(texts) < maxLogErrors:
			texts = append(texts, m[2])
		}
	}
	if len(texts) > 0 {
		return strings.Join(texts, "; ")
	}
	return cmp.Or(plain, warning)
}

// Check lets the CRIU at path check the kernel for what it cannot do without. It needs root.
// What it says of a kernel that lacks only what some process trees need is in warning.
func Check(ctx context.Context, path string) (warning string, err error) {
	out, err := ask(ctx, path, "check")
	if err != nil {
		return "", fmt.Errorf("criu: %w", err)
	}
	if text := strings.Join(strings.Fields(out), " "); text != "Looks good." {
		warning = text
	}
	return warning, nil
}

// HasFeature asks the CRIU at path whether it and the kernel have a feature, which is
// named as CRIU's check --feature names it. One that this CRIU does not know it does not have. It needs root.
func HasFeature(ctx context.Context, path, name string) (bool, error) {
	_, err := ask(ctx, path, "check", "--feature", name)
	var exit *exec.ExitError
	switch {
	case err == nil:
		return true, nil
	case ctx.Err() == nil && errors.As(err, &exit) && exit.Exited():
		return false, nil
	}
	return false, fmt.Errorf("criu: %w", err)
}
