package capture

import (
	"context"

	"github.com/arcboxlabs/arcstore/capture/criu"
	"github.com/arcboxlabs/arcstore/manifest"
)

// ThisHost returns what this machine is, without a VMM or a CRIU. The caller may change it.
func ThisHost() *manifest.Host {
	h := host()
	return &h
}

// CRIUVersion returns the version of the CRIU that would be used; "" where there is none that can be.
func CRIUVersion(ctx context.Context) string {
	_, v, err := criu.Usable(ctx)
	if err != nil {
		return ""
	}
	return v.String()
}
