package criu

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"syscall"
)

// FailedError is a request that CRIU could not fulfil, in its own words.
type FailedError struct {
	Text  string // may be empty
	Errno syscall.Errno
}

func (e *FailedError) Error() string {
	switch {
	case e.Text != "":
		return "CRIU says: " + e.Text
	case e.Errno != 0:
		return "CRIU says: " + e.Errno.Error()
	}
	return "CRIU failed and does not say why"
}

// Unwrap returns the error number that CRIU gave, or nil.
func (e *FailedError) Unwrap() error {
	if e.Errno == 0 {
		return nil
	}
	return e.Errno
}

// errGone is that CRIU hung up before its answer.
var errGone = errors.New("CRIU ended without an answer")

// logError is a line of a log of CRIU's that reports an error.
var logError = regexp.MustCompile(`Error \([^)]*\): (.*)`)

// maxLogErrors is how many errors of a log are told. The first is the cause
// more often than the last.
const maxLogErrors = 3

// explain adds what the log of a failed request tells to its error.
func explain(err error, log string) error {
	logged := LogError(log)
	if logged == nil {
		return err
	}
	if failed, ok := err.(*FailedError); ok {
		return failedError(logged.Text, failed.Errno)
	}
	if errors.Is(err, errGone) {
		return fmt.Errorf("%w: %w", err, logged)
	}
	return err
}

// failedError is a FailedError that is told from others by its number, too, where the disk is full:
// CRIU has that in its log alone.
func failedError(text string, errno syscall.Errno) *FailedError {
	if strings.Contains(text, "No space left on device") {
		errno = syscall.ENOSPC
	}
	return &FailedError{text, errno}
}

// logErrors returns the first errors that a log tells; none where there is no log.
func logErrors(name string) []string {
	f, err := os.Open(name)
	if err != nil {
		return nil
	}
	defer f.Close()
	var texts []string
	lines := bufio.NewScanner(f)
	for lines.Scan() && len(texts) < maxLogErrors {
		if m := logError.FindStringSubmatch(lines.Text()); m != nil {
			text := strings.TrimSpace(strings.ToValidUTF8(m[1], "?"))
			if !noise(text) && !slices.Contains(texts, text) {
				texts = append(texts, text)
			}
		}
	}
	return texts
}

// noise tells what says nothing about the cause: that it failed, and what CRIU can do without.
func noise(text string) bool {
	return text == "" || strings.HasSuffix(text, "FAILED.") || strings.HasSuffix(text, "failed with -1") || strings.HasSuffix(text, "killed by signal 9: Killed") ||
		strings.HasPrefix(text, "Unable to open fd=") || strings.HasPrefix(text, "cg: cgroupd: recv req error") || strings.HasPrefix(text, "rlimit: ")
}

// LogError returns the first errors in a log that CRIU wrote as one error, or nil if there is none.
func LogError(name string) *FailedError {
	if texts := logErrors(name); len(texts) > 0 {
		return failedError(strings.Join(texts, "; "), 0)
	}
	return nil
}

// RuncError makes an error of what runc prints when it fails: of its log lines, the messages count.
func RuncError(err error, text string) error {
	var messages []string
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if _, after, ok := strings.Cut(line, `msg="`); ok {
			line = strings.TrimSuffix(after, `"`)
		}
		if line != "" {
			messages = append(messages, strings.ToValidUTF8(line, "?"))
		}
	}
	if len(messages) == 0 {
		return fmt.Errorf("runc: %w", err)
	}
	return fmt.Errorf("runc says: %s", strings.Join(messages, "; "))
}
