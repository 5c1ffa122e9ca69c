package restore

import "github.com/arcboxlabs/arcstore/manifest"

// KeepWorkingSet returns the working set to keep after a restore of a memory of size bytes, and whether that is another than the known one,
// which is nil for none. touched is what the guest asked for. Where much of it was not known, the next restore is to record
// anew, without loading anything ahead: an empty working set says so.
func KeepWorkingSet(known *manifest.WorkingSet, size int64, touched []uint32) (keep *manifest.WorkingSet, changed bool) {
	if known == nil || known.Size != size || len(known.Pages) == 0 {
		if len(touched) == 0 {
			return known, false
		}
		return &manifest.WorkingSet{Size: size, Pages: touched}, true
	}
	seen := make(map[uint32]bool, len(known.Pages)+len(touched))
	for _, page := range known.Pages {
		seen[page] = true
	}
	all := append([]uint32(nil), known.Pages...)
	for _, page := range touched {
		if !seen[page] {
			seen[page] = true
			all = append(all, page)
		}
	}
	switch misses := len(all) - len(known.Pages); {
	case misses <= len(known.Pages)/10+16:
		return known, false
	case misses > len(known.Pages):
		return &manifest.WorkingSet{Size: size}, true
	}
	return &manifest.WorkingSet{Size: size, Pages: all}, true
}
