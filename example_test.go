package arcstore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"

	"github.com/arcboxlabs/arcstore"
	"github.com/arcboxlabs/arcstore/capture"
)

// tempStore makes and opens a store for an example.
func tempStore(ctx context.Context) (store *arcstore.Manager, remove func()) {
	dir, err := os.MkdirTemp("", "arcstore-example-")
	if err != nil {
		log.Fatal(err)
	}
	path := filepath.Join(dir, "store")
	if err := arcstore.Init(path, nil); err != nil {
		log.Fatal(err)
	}
	if store, err = arcstore.Open(ctx, path, nil); err != nil {
		log.Fatal(err)
	}
	return store, func() {
		store.Close()
		os.RemoveAll(dir)
	}
}

// A first snapshot, a second one of what the dirty bitmap says, and the way back.
func Example() {
	ctx := context.Background()
	store, remove := tempStore(ctx)
	defer remove()

	ram := make([]byte, 1<<20) // 256 pages, nearly all of them zero
	copy(ram, "the guest's first page")
	first, err := store.CreateVM(ctx, "web-1", &arcstore.VM{Memory: capture.Bytes(ram)}, nil)
	if err != nil {
		log.Fatal(err)
	}

	copy(ram[7*4096:], "a page that the guest wrote later")
	dirty := make([]byte, 256/8)
	dirty[0] = 1 << 7
	second, err := store.CreateVM(ctx, "web-1", &arcstore.VM{Memory: capture.Bytes(ram)},
		&arcstore.CreateOptions{Parent: first.ID, Dirty: dirty})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("new chunks:", first.Cost.ChunksNew, "and", second.Cost.ChunksNew)

	if _, err := store.Delete(ctx, first.ID); err != nil { // the second one does not mind
		log.Fatal(err)
	}
	if _, err := store.GC(ctx, nil); err != nil {
		log.Fatal(err)
	}
	var back bytes.Buffer
	if _, err := store.RestoreStream(ctx, "web-1@latest", "memory", &back, nil); err != nil {
		log.Fatal(err)
	}
	fmt.Println("the same:", bytes.Equal(back.Bytes(), ram))
	// Output:
	// new chunks: 1 and 1
	// the same: true
}

// Parts of a snapshot can be read without restoring it.
func ExampleManager_OpenSnapshot() {
	ctx := context.Background()
	store, remove := tempStore(ctx)
	defer remove()
	vm := &arcstore.VM{
		Memory: capture.Bytes(make([]byte, 4096)),
		State:  map[string]arcstore.Source{"vmstate": capture.Bytes([]byte("rax=1 rbx=2"))},
	}
	if _, err := store.CreateVM(ctx, "web-1", vm, nil); err != nil {
		log.Fatal(err)
	}

	snapshot, err := store.OpenSnapshot(ctx, "web-1@latest")
	if err != nil {
		log.Fatal(err)
	}
	defer snapshot.Close()
	state, err := snapshot.Stream("vmstate")
	if err != nil {
		log.Fatal(err)
	}
	b, err := io.ReadAll(io.NewSectionReader(state, 6, state.Size()-6))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s\n", b)
	// Output: rbx=2
}

// A dry run says what a retention would delete, and why each other snapshot stays.
func ExampleManager_Prune() {
	ctx := context.Background()
	store, remove := tempStore(ctx)
	defer remove()
	for i := range 3 {
		vm := &arcstore.VM{Memory: capture.Bytes(bytes.Repeat([]byte{byte(i)}, 4096))}
		if _, err := store.CreateVM(ctx, "web-1", vm, nil); err != nil {
			log.Fatal(err)
		}
	}
	report, err := store.Prune(ctx, arcstore.Retention{KeepLast: 2}, &arcstore.PruneOptions{DryRun: true})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(report.Kept, "stay,", report.Removed, "would go")
	// Output: 2 stay, 1 would go
}

// Errors are told apart with errors.Is.
func ExampleManager_Get() {
	ctx := context.Background()
	store, remove := tempStore(ctx)
	defer remove()
	_, err := store.Get(ctx, "web-1@latest")
	fmt.Println(errors.Is(err, arcstore.ErrNotFound))
	// Output: true
}
