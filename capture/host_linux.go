package capture

import (
	"bufio"
	"os"
	"runtime"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/arcboxlabs/arcstore/manifest"
)

// host reads what this machine is; it is not going to change.
var host = sync.OnceValue(func() manifest.Host {
	h := manifest.Host{Architecture: runtime.GOARCH, PageSize: os.Getpagesize()}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		h.Kernel = unix.ByteSliceToString(u.Release[:])
	}
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return h
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		key, value, _ := strings.Cut(lines.Text(), ":")
		switch value = strings.ToValidUTF8(strings.TrimSpace(value), ""); strings.TrimSpace(key) {
		case "model name", "CPU part":
			h.CPU = value
		case "flags", "Features":
			h.Flags = value
		case "":
			return h // the first CPU stands for all
		}
	}
	return h
})
