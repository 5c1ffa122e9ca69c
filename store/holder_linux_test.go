package store

import (
	"os"
	"strings"
	"testing"
)

func TestListsLock(t *testing.T) {
	const locks = `1: POSIX  ADVISORY  WRITE 11 08:01:101 0 EOF
2: FLOCK  ADVISORY  READ  12 08:01:102 0 EOF
3: FLOCK  ADVISORY  WRITE 13 08:01:103 0 EOF
3: -> FLOCK  ADVISORY  WRITE 14 08:01:103 0 EOF
4: FLOCK  ADVISORY  WRITE 15
`
	for _, test := range []struct {
		pid   int
		inode uint64
		want  bool
	}{
		{11, 101, false}, // another kind of lock
		{12, 102, false}, // a shared one
		{13, 103, true},
		{13, 3, false},
		{14, 103, false}, // it waits
		{15, 105, false},
	} {
		if got := listsLock(strings.NewReader(locks), test.pid, test.inode); got != test.want {
			t.Errorf("process %d holds %d: %v", test.pid, test.inode, got)
		}
	}
}

func TestHolder(t *testing.T) {
	if h, err := Holder(t.TempDir()); h != nil || err != nil {
		t.Errorf("holder of no store: %v, %v", h, err)
	}
	s := newStore(t, Config{})
	if h, err := Holder(s.Dir()); err != nil || h == nil || h.PID != os.Getpid() || h.Holder != t.Name() {
		t.Errorf("holder of an open store: %v, %v", h, err)
	}
	s.Close()
	if h, err := Holder(s.Dir()); h != nil || err != nil {
		t.Errorf("holder of a closed store: %v, %v", h, err)
	}
}
