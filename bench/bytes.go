package main

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"syscall"
)

// bytes measures what three snapshots take in a store, index and manifests included.
func (b *bench) bytes() error {
	compressed := filepath.Join(b.dir, "compressed")
	sum := int64(0)
	for _, in := range b.inputs {
		if err := b.tool("lz4", "-1", "-q", "-f", in, compressed); err != nil {
			return err
		}
		info, err := os.Stat(compressed)
		if err != nil {
			return err
		}
		sum += info.Size()
	}
	taken, err := b.peerBytes()
	if err != nil {
		return err
	}
	for codec, bar := range map[string]float64{"lz4": 0.44, "zstd": 0.33} {
		m, err := b.newStore("bytes", codec)
		if err != nil {
			return err
		}
		detail := maps.Clone(taken)
		detail["lz4 -1 files (bytes)"] = float64(sum)
		for i, in := range b.inputs {
			s, err := snapshot(b.ctx, m, []string{"a", "a", "b"}[i], in, nil)
			if err != nil {
				m.Close()
				return err
			}
			detail[fmt.Sprintf("stored by snapshot %d (bytes)", i+1)] = float64(s.Cost.BytesStored)
			detail[fmt.Sprintf("new chunks of snapshot %d", i+1)] = float64(s.Cost.ChunksNew)
		}
		if err := m.Close(); err != nil {
			return err
		}
		total, err := diskUsage(filepath.Join(b.dir, "bytes"))
		if err != nil {
			return err
		}
		detail["store (bytes)"] = float64(total)
		b.add(Result{Step: "bytes", What: codec + " store of three snapshots / their lz4 -1 files", Value: float64(total) / float64(sum),
			Bar: bar, AtMost: true, Detail: detail})
	}
	return nil
}

// diskUsage sums what the files of a directory take, as du does.
func diskUsage(dir string) (int64, error) {
	sum := int64(0)
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		sum += min(info.Size(), info.Sys().(*syscall.Stat_t).Blocks*512)
		return nil
	})
	return sum, err
}
