package crashdisk

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
)

// Crash makes, in the empty directory dir, what a loss of power would leave
// now; seed decides where there is a choice. Files of others come as they are, torn, or not at all.
func (d *Disk) Crash(dir string, seed uint64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.crash(dir, seed)
}

func (d *Disk) crash(dir string, seed uint64) error {
	c := crash{r: rand.New(rand.NewPCG(seed, 0x706f776572)), others: others(seed % 4)}
	if err := c.dir(d.tree, d.root, dir); err != nil {
		return fmt.Errorf("crashdisk: %w", err)
	}
	return nil
}

// others is what becomes of files that the disk does not know.
type others uint64

const (
	asTheyAre others = iota
	lost
	torn
	eachByItself
)

// crash makes one image.
type crash struct {
	r      *rand.Rand
	others others
}

// dir makes to of what is left of the directory n, which is from.
func (c *crash) dir(n *node, from, to string) error {
	left := n.entries(c.r)
	for _, name := range slices.Sorted(maps.Keys(left)) {
		child, at := left[name], filepath.Join(to, name)
		var err error
		if child.dir {
			if err = os.Mkdir(at, 0o700); err == nil {
				err = c.dir(child, filepath.Join(from, name), at)
			}
		} else {
			err = os.WriteFile(at, child.lose(c.r), 0o600)
		}
		if err != nil {
			return err
		}
	}
	entries, err := os.ReadDir(from)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // a directory that was removed, and is back
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if n.live[e.Name()] == nil && left[e.Name()] == nil {
			if err := c.other(filepath.Join(from, e.Name()), filepath.Join(to, e.Name()), e); err != nil {
				return err
			}
		}
	}
	return nil
}

// other copies what the disk does not know. It may change or go meanwhile.
func (c *crash) other(from, to string, e fs.DirEntry) error {
	how := c.others
	if how == eachByItself && !e.IsDir() {
		how = others(c.r.IntN(int(eachByItself)))
	}
	if how == lost {
		return nil
	}
	if e.IsDir() {
		if err := os.Mkdir(to, 0o700); err != nil {
			return err
		}
		entries, err := os.ReadDir(from)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		for _, e := range entries {
			if err := c.other(filepath.Join(from, e.Name()), filepath.Join(to, e.Name()), e); err != nil {
				return err
			}
		}
		return nil
	}
	if !e.Type().IsRegular() {
		return nil
	}
	err := copySparse(from, to)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && how == torn {
		var info fs.FileInfo
		if info, err = os.Stat(to); err == nil {
			err = os.Truncate(to, c.r.Int64N(info.Size()/sector+1)*sector)
		}
	}
	return err
}

// copySparse copies a file but for its zeros, most of which are holes.
func copySparse(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	b, zeros := make([]byte, 64<<10), make([]byte, 64<<10)
	for at := int64(0); ; {
		n, err := io.ReadFull(in, b)
		if n > 0 && !bytes.Equal(b[:n], zeros[:n]) {
			if _, err := out.WriteAt(b[:n], at); err != nil {
				return err
			}
		}
		if at += int64(n); err == io.EOF || err == io.ErrUnexpectedEOF {
			return out.Truncate(at)
		}
		if err != nil {
			return err
		}
	}
}
