package criu

import "github.com/arcboxlabs/arcstore/chunker"

// Images are the files of a checkpoint, by CRIU's names for them ("core-1.img",
// "pages-1.img"), without directories.
type Images map[string]chunker.Source
