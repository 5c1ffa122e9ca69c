package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/arcboxlabs/arcstore"
)

// Exit codes. Scripts rely on them: they never change.
const (
	exitDone        = 0
	exitFailed      = 1
	exitUsage       = 2
	exitNotFound    = 3
	exitDamage      = 4
	exitInUse       = 5
	exitInterrupted = 130 // as shells have it for a program that a signal ended
)

var exitMeaning = map[int]string{
	exitDone:        "done",
	exitFailed:      "failed",
	exitUsage:       "usage: the command line asks for what cannot be",
	exitNotFound:    "no such snapshot, or no such stream in it",
	exitDamage:      "damage found",
	exitInUse:       "store in use by another process",
	exitInterrupted: "interrupted; nothing half-done stays",
}

// usageError is a command line that makes no sense.
type usageError struct{ text string }

func (e *usageError) Error() string { return e.text }

func usagef(format string, args ...any) error { return &usageError{fmt.Sprintf(format, args...)} }

// flagError is the error of a flag, in words of the command line instead of those of a library.
func flagError(err error) error {
	var invalid *pflag.InvalidValueError
	if !errors.As(err, &invalid) {
		return &usageError{err.Error()}
	}
	var why string
	switch kind := invalid.GetFlag().Value.Type(); kind {
	case "int", "int64":
		why = "is no whole number that is possible here"
	case "bool":
		why = "is neither true nor false"
	case "duration":
		why = "is no duration such as 30s, 5m or 2h"
	default:
		return usagef("--%s: %v", invalid.GetFlag().Name, invalid.Unwrap())
	}
	return usagef("--%s %q %s", invalid.GetFlag().Name, invalid.GetValue(), why)
}

// hinted is an error that knows what to do about it.
type hinted struct {
	error
	hint string
}

func (e hinted) Unwrap() error { return e.error }

var (
	errInterrupted = errors.New("interrupted")
	errDamage      = errors.New("damage found")
	errDiffers     = errors.New("what was restored differs from what was captured")

	errNothingPushed = hinted{fmt.Errorf("%w: nothing was pushed there yet", arcstore.ErrNotFound), "arcstore push brings snapshots there"}
)

const remoteLsHint = "arcstore remote ls shows what there is"

// exitCode maps errors to exit codes; nothing else does.
func exitCode(err error) int {
	var usage *usageError
	switch {
	case err == nil:
		return exitDone
	case errors.Is(err, errInterrupted), errors.Is(err, context.Canceled):
		return exitInterrupted
	case errors.As(err, &usage), errors.Is(err, arcstore.ErrInvalid), errors.Is(err, arcstore.ErrAmbiguous), errors.Is(err, arcstore.ErrOtherKind), errors.Is(err, arcstore.ErrNoRemote), errors.Is(err, arcstore.ErrNoSchedule),
		errors.Is(err, arcstore.ErrLocked), errors.Is(err, arcstore.ErrKeyFile), errors.Is(err, arcstore.ErrPlain):
		return exitUsage
	case errors.Is(err, errDamage), arcstore.IsCorrupt(err):
		return exitDamage
	case errors.Is(err, arcstore.ErrInUse):
		return exitInUse
	case errors.Is(err, arcstore.ErrNotFound), errors.Is(err, arcstore.ErrNoStream):
		return exitNotFound
	}
	return exitFailed
}

// message is the one sentence that an error ends the program with: what, why,
// and in brackets what to do about it. command is the path of the one that failed.
//
// It begins with a small letter and has no full stop.
func message(err error, command string) string {
	text := "arcstore: " + plain(err)
	if h := hint(err, command); h != "" {
		text += " (" + h + ")"
	}
	return text
}

// packages are the names with which libraries begin their errors.
var packages = []string{"arcstore", "store", "manifest", "chunker", "capture", "restore", "criu", "remote", "crypt", "arcbox", "offload"}

// plain is an error's text for people: on one line, without the names of
// packages, and without a general beginning that a later part says again or better.
func plain(err error) string {
	parts := strings.Split(strings.ReplaceAll(err.Error(), "\n", "; "), ": ")
	parts = slices.DeleteFunc(parts, func(part string) bool { return slices.Contains(packages, part) })
	last := parts[len(parts)-1]
	parts = slices.DeleteFunc(parts, func(part string) bool {
		return (part == arcstore.ErrInvalid.Error() || part == arcstore.ErrNoProcess.Error()) && part != last
	})
	for len(parts) > 1 && strings.Contains(strings.Join(parts[1:], ": "), parts[0]) {
		parts = parts[1:]
	}
	return strings.Join(parts, ": ")
}

// hint says what to do about an error, where that is not plain from its text.
func hint(err error, command string) string {
	var usage *usageError
	var own hinted
	switch {
	case errors.As(err, &own):
		return own.hint
	case errors.As(err, &usage):
		return "see " + command + " --help"
	case errors.Is(err, arcstore.ErrInUse):
		return "--lock-timeout 1m waits for it"
	case errors.Is(err, arcstore.ErrNoRemote):
		return "arcstore remote list shows what there is, arcstore remote add adds one"
	case errors.Is(err, arcstore.ErrNoSchedule):
		return "arcstore schedule list shows what there is"
	case errors.Is(err, arcstore.ErrLocked):
		return "give its key with --key-file FILE, or its passphrase in " + passphraseVariable
	case errors.Is(err, arcstore.ErrKeyFile):
		return "a key file is made with init --encrypt --key-file FILE, or key add --new-key-file FILE"
	case errors.Is(err, arcstore.ErrPlain):
		return "a store is encrypted from the beginning: init --encrypt makes one"
	case errors.Is(err, arcstore.ErrNotFound):
		if strings.HasPrefix(command, "arcstore remote ") || command == "arcstore pull" {
			return remoteLsHint
		}
		return "arcstore list shows what there is"
	case errors.Is(err, arcstore.ErrNoStream):
		return "arcstore show lists its streams"
	case errors.Is(err, arcstore.ErrVersion):
		return "a newer arcstore reads it"
	case arcstore.IsCorrupt(err) && command == "arcstore pull":
		return "arcstore remote verify --data shows what else is affected"
	case arcstore.IsCorrupt(err):
		return "arcstore verify --data shows what else is affected"
	case errors.Is(err, syscall.EROFS):
		return "what only reads works there: list, show, diff, verify, and restore to elsewhere"
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return "nothing in the store is harmed; free some space and try again"
	}
	return ""
}

// exitAnnotation is where a command keeps the text on its exit codes.
const exitAnnotation = "exit codes"

const exitTemplate = `{{with index .Annotations "` + exitAnnotation + `"}}
Exit codes:
{{.}}{{end}}`

// exits documents the codes that a command can end with, besides 0.
func exits(cmd *cobra.Command, codes ...int) *cobra.Command {
	var b strings.Builder
	for _, code := range append([]int{exitDone}, codes...) {
		fmt.Fprintf(&b, "  %-3d  %s\n", code, exitMeaning[code])
	}
	if cmd.Annotations == nil {
		cmd.Annotations = make(map[string]string)
	}
	cmd.Annotations[exitAnnotation] = b.String()
	return cmd
}

// takes demands min to max arguments (max < 0: any number); what names them.
func takes(minimum, maximum int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < minimum || maximum >= 0 && len(args) > maximum {
			return usagef("%s takes %s, but has %s", strings.TrimPrefix(cmd.CommandPath(), "arcstore "), what, plural(len(args), "argument", "arguments"))
		}
		return nil
	}
}

// oneOf demands one of several flags, and no two.
func oneOf(cmd *cobra.Command, names ...string) error {
	var given, all []string
	for _, name := range names {
		all = append(all, "--"+name)
		if cmd.Flags().Changed(name) {
			given = append(given, "--"+name)
		}
	}
	list := strings.Join(all[:len(all)-1], ", ") + " or " + all[len(all)-1]
	switch len(given) {
	case 0:
		return usagef("%s needs one of %s", strings.TrimPrefix(cmd.CommandPath(), "arcstore "), list)
	case 1:
		return nil
	}
	return usagef("%s exclude each other: give one of %s", strings.Join(given, " and "), list)
}
