package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/arcboxlabs/arcstore"
	"github.com/arcboxlabs/arcstore/store"
)

// storeChecks returns the checks of the store in dir, and of its disk.
func storeChecks(dir string) []check {
	checks := []check{{"store", "the store given", func(ctx context.Context) (finding, error) { return checkStore(ctx, dir) }}}
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return checks
	}
	for _, c := range []struct {
		name, purpose string
		run           func(dir string) (finding, error)
	}{
		{"store-space", "the store given", checkStoreSpace},
		{"store-holes", "sparse files", checkHoles},
		{"store-flock", "the store's lock", checkFlock},
	} {
		checks = append(checks, check{c.name, c.purpose, func(context.Context) (finding, error) { return c.run(dir) }})
	}
	return checks
}

// checkStore opens the store as those do who only read, and looks who may write to it.
func checkStore(ctx context.Context, dir string) (finding, error) {
	m, err := arcstore.Open(ctx, dir, &arcstore.Options{ReadOnly: true})
	if err != nil {
		return finding{statusMissing, problem(err), storeAdvice(dir, err)}, nil
	}
	defer m.Close()
	holder, err := storeHolder(dir)
	if err != nil {
		return finding{}, err
	}
	return finding{Status: statusOK, Found: fmt.Sprintf("opens, chunks of %s, %s", size(int64(m.ChunkSize())), holder)}, nil
}

// storeAdvice says what to do about a store that does not open.
func storeAdvice(dir string, err error) string {
	switch {
	case errors.Is(err, fs.ErrPermission):
		return "run as the user who owns " + dir
	case errors.Is(err, arcstore.ErrNoStore):
		return "arcstore --store " + dir + " init makes one"
	case errors.Is(err, arcstore.ErrVersion):
		return "a newer arcstore reads it"
	case arcstore.IsCorrupt(err):
		return "bring back its config.json from a backup: no other command can open it either"
	}
	return ""
}

// storeHolder says which process holds the lock of the store in dir.
func storeHolder(dir string) (string, error) {
	holder, err := store.Holder(dir)
	switch {
	case err != nil:
		return "", err
	case holder == nil:
		return "no process here holds its lock", nil
	}
	return fmt.Sprintf("in use by process %d (%s)", holder.PID, holder.Holder), nil
}
