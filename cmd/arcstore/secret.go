package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/term"

	"github.com/arcboxlabs/arcstore"
)

// Where secrets come from, besides files and terminals: never from arguments, which every process can read.
const (
	keyFileVariable       = "ARCSTORE_KEY_FILE"
	passphraseVariable    = "ARCSTORE_PASSPHRASE"
	newPassphraseVariable = "ARCSTORE_NEW_PASSPHRASE"
)

// secret returns a function that gets the secret of an encrypted store: from the key file, the environment, or whoever sits at the terminal.
// It is asked for once.
func (a *app) secret(ctx context.Context) func() (arcstore.Secret, error) {
	return func() (arcstore.Secret, error) {
		if !a.answered.IsZero() {
			return a.answered, nil
		}
		var err error
		switch passphrase := os.Getenv(passphraseVariable); {
		case a.keyFile != "":
			a.answered, err = arcstore.ReadKeyFile(a.keyFile)
		case passphrase != "":
			a.answered = arcstore.Passphrase(passphrase)
		case a.canAsk():
			var p string
			if p, err = a.ask(ctx, "Passphrase: "); err == nil {
				a.answered = arcstore.Passphrase(p)
			}
		default:
			err = arcstore.ErrLocked
		}
		return a.answered, err
	}
}

// newSecret gets a secret that is to open a store from now on: that of a key file, which is made if it is not there, a passphrase from
// the environment, or one that is typed twice.
func (a *app) newSecret(ctx context.Context, keyFile, variable string) (arcstore.Secret, error) {
	if keyFile != "" {
		s, err := arcstore.ReadKeyFile(keyFile)
		if !errors.Is(err, fs.ErrNotExist) {
			return s, err
		}
		if s, err = arcstore.NewKeyFile(keyFile); err == nil {
			a.note("made the key file %s: keep a copy elsewhere, without it nothing can be read", keyFile)
		}
		return s, err
	}
	if p := os.Getenv(variable); p != "" {
		return arcstore.Passphrase(p), nil
	}
	if !a.canAsk() {
		return arcstore.Secret{}, usagef("no secret is given: name a key file, which is made if it is not there, or put a passphrase into %s", variable)
	}
	p, err := a.ask(ctx, "New passphrase: ")
	if err != nil {
		return arcstore.Secret{}, err
	}
	again, err := a.ask(ctx, "The same again: ")
	if err == nil && again != p {
		err = usagef("these were two different passphrases")
	}
	return arcstore.Passphrase(p), err
}

// canAsk reports whether there is a terminal to ask at.
func (a *app) canAsk() bool {
	f, ok := a.stdin.(*os.File)
	return ok && !a.mute && term.IsTerminal(int(f.Fd())) && a.stderrIsTerminal()
}

// ask reads a line that does not show.
func (a *app) ask(ctx context.Context, prompt string) (string, error) {
	in := int(a.stdin.(*os.File).Fd())
	state, err := term.GetState(in)
	if err != nil {
		return "", fmt.Errorf("ask for a passphrase: %w", err)
	}
	fmt.Fprint(a.stderr, prompt)
	type answer struct {
		b   []byte
		err error
	}
	typed := make(chan answer, 1)
	go func() {
		b, err := term.ReadPassword(in)
		typed <- answer{b, err}
	}()
	select {
	case got := <-typed:
		fmt.Fprintln(a.stderr)
		if errors.Is(got.err, io.EOF) {
			got.err = arcstore.ErrLocked
		}
		return string(got.b), got.err
	case <-ctx.Done():
		term.Restore(in, state)
		fmt.Fprintln(a.stderr)
		return "", ctx.Err()
	}
}
