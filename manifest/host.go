package manifest

import "unicode/utf8"

// Host is what a snapshot was taken on, as far as that decides where it can go on.
type Host struct {
	Architecture string `json:"architecture"` // as Go names it: amd64, arm64
	CPU          string `json:"cpu,omitempty"`
	Flags        string `json:"cpu_flags,omitempty"` // separated by spaces, as /proc/cpuinfo has them
	Kernel       string `json:"kernel,omitempty"`    // its release
	PageSize     int    `json:"page_size"`           // bytes
	VMM          string `json:"vmm,omitempty"`       // "qemu", "firecracker"; "" for containers, and where it is not known
	VMMVersion   string `json:"vmm_version,omitempty"`
	CRIU         string `json:"criu_version,omitempty"` // of checkpoints
}

// text reports whether JSON gives back all of it as it is.
func (h *Host) text() bool {
	for _, s := range []string{h.Architecture, h.CPU, h.Flags, h.Kernel, h.VMM, h.VMMVersion, h.CRIU} {
		if !utf8.ValidString(s) {
			return false
		}
	}
	return true
}
