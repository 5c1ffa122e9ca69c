package arcstore

import (
	"bytes"
	"context"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Whatever file of a store is damaged or lost, what its snapshots need of it comes back from a bucket.
func TestRepair(t *testing.T) {
	t.Run("plain", func(t *testing.T) { repairAll(t, nil) })
	t.Run("encrypted", func(t *testing.T) { repairAll(t, &InitOptions{Secret: testSecret()}) })
}

func repairAll(t *testing.T, opts *InitOptions) {
	ctx := context.Background()
	s := newTiny(t, opts)
	bucket := newMemoryBucket()
	m := openManager(t, s.dir)
	r, err := OpenBucket(ctx, bucket, &RemoteOptions{key: m.store.Key()})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := r.Push(ctx, m, nil, nil); err != nil {
		t.Fatal(err)
	}
	// One of them is in the bucket no more. Its chunks are: two others have them all.
	var unpushed string
	for id, vm := range s.vms {
		e := create(t, m, "twin", vm, nil)
		s.want[e.ID], unpushed = s.want[id], e.ID
		s.vms[e.ID] = vm
		break
	}
	m.Close()
	for _, name := range slices.Concat(glob(t, filepath.Join(s.dir, "*", "*", "*")), glob(t, filepath.Join(s.dir, "snapshots", "*"))) {
		rel, _ := filepath.Rel(s.dir, name)
		if b, err := os.ReadFile(name); err == nil && !strings.HasPrefix(rel, "index") {
			s.files[rel] = b
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.files)) {
		if strings.HasPrefix(name, "config") || strings.Contains(name, unpushed) {
			continue
		}
		for _, how := range []string{"cut", "changed", "lost"} {
			b := bytes.Clone(s.files[name])
			switch how {
			case "lost":
				if strings.HasPrefix(name, "snapshots") {
					continue // as good as deleted
				}
				if err := os.Remove(filepath.Join(s.dir, name)); err != nil {
					t.Fatal(err)
				}
			case "cut":
				s.write(t, name, b[:len(b)/2])
			case "changed":
				for i := len(b) / 4; i < len(b); i += 11 {
					b[i] ^= 0x11
				}
				s.write(t, name, b)
			}
			m := openManager(t, s.dir)
			report, err := m.Repair(ctx, r, &VerifyOptions{Data: true})
			if err != nil {
				t.Fatalf("%s, %s: %v", name, how, err)
			}
			if len(report.Found.Damage) == 0 {
				t.Errorf("%s, %s: nothing was found", name, how)
			}
			for id, why := range report.Left {
				// A page table that nobody pushed is gone for good.
				if id != unpushed || !strings.HasPrefix(name, "manifests") {
					t.Errorf("%s, %s: %s was not repaired: %s", name, how, id, why)
				}
			}
			broken := s.broken(t, m)
			delete(broken, unpushed)
			if len(broken) > 0 {
				t.Errorf("%s, %s: %v are broken after the repair", name, how, broken)
			}
			if _, err := m.GC(ctx, nil); err != nil {
				t.Fatal(err)
			}
			again, err := m.Verify(ctx, &VerifyOptions{Data: true})
			if err != nil || len(again.Damage) > 0 && len(report.Left) == 0 {
				t.Errorf("%s, %s: after repair and gc: %+v, %v", name, how, again, err)
			}
			m.Close()
			s.reset(t)
		}
	}
}
