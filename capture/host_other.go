//go:build !linux

package capture

import (
	"os"
	"runtime"

	"github.com/arcboxlabs/arcstore/manifest"
)

func host() manifest.Host {
	return manifest.Host{Architecture: runtime.GOARCH, PageSize: os.Getpagesize()}
}
