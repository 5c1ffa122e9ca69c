package arcstore

// What tests may do that users may not: put a disk under a store.
var (
	InitOnDisk = initOn
	OpenOnDisk = openOn
)
