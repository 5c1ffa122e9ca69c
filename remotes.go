package arcstore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/arcboxlabs/arcstore/remote"
	"github.com/arcboxlabs/arcstore/store"
	"github.com/arcboxlabs/arcstore/store/crypt"
	"github.com/arcboxlabs/arcstore/store/disk"
)

// remotesFile is where a store keeps its list of remotes.
const remotesFile = "remotes.json"

// remotesFormat is the version of that file.
const remotesFormat = 1

// RemoteConfig says where a remote is and how it is reached. It holds no secrets.
type RemoteConfig struct {
	Name        string `json:"name"`                  // letters, digits, . _ and -
	URL         string `json:"url"`                   // s3://bucket/prefix
	Endpoint    string `json:"endpoint,omitempty"`    // URL of the server; "" is Amazon's, or what the environment says
	Region      string `json:"region,omitempty"`      // "" is what the environment or the server says
	Credentials string `json:"credentials,omitempty"` // env, profile:NAME, file:PATH, iam, anonymous; "" is the first that there is
}

var remoteName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,63}$`)

// check refuses what cannot be.
func (c *RemoteConfig) check() error {
	if !remoteName.MatchString(c.Name) {
		return fmt.Errorf("arcstore: %w: a remote cannot be called %q: letters, digits, . _ and - make a name", ErrInvalid, c.Name)
	}
	if _, err := remote.ParseLocation(c.URL); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return nil
}

// bucket returns the bucket.
func (c *RemoteConfig) bucket(opts *RemoteOptions) (*remote.S3, error) {
	at, err := remote.ParseLocation(c.URL)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	b, err := remote.OpenS3(at, &remote.S3Options{Endpoint: c.Endpoint, Region: c.Region, Credentials: c.Credentials,
		UploadLimit: opts.UploadLimit, DownloadLimit: opts.DownloadLimit, Patience: opts.Patience})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return b, nil
}

type remotesList struct {
	Format  int            `json:"format"`
	Remotes []RemoteConfig `json:"remotes"`
}

// Remotes returns the store's remotes, sorted by name.
func (m *Manager) Remotes() ([]RemoteConfig, error) {
	list, err := m.readRemotes()
	return list.Remotes, err
}

func (m *Manager) readRemotes() (list remotesList, err error) {
	b, err := disk.ReadFile(disk.OS, filepath.Join(m.dir, remotesFile), 1<<20)
	if errors.Is(err, fs.ErrNotExist) {
		return remotesList{Format: remotesFormat}, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &list)
	}
	if err == nil && list.Format > remotesFormat {
		err = fmt.Errorf("%w: it has format %d, this program knows up to %d", ErrVersion, list.Format, remotesFormat)
	}
	if err != nil {
		return list, fmt.Errorf("arcstore: %s: %w", filepath.Join(m.dir, remotesFile), err)
	}
	return list, nil
}

// changeRemotes changes the list, alone. It needs no lock of the store.
func (m *Manager) changeRemotes(ctx context.Context, change func(*remotesList) error) error {
	dir := filepath.Join(m.dir, remotesName)
	if err := disk.MakeDir(disk.OS, dir); err != nil {
		return fmt.Errorf("arcstore: %w", err)
	}
	unlock, err := store.LockDir(ctx, dir, 0, "remotes")
	if err != nil {
		return err
	}
	defer unlock()
	list, err := m.readRemotes()
	if err == nil {
		err = change(&list)
	}
	if err != nil {
		return err
	}
	slices.SortFunc(list.Remotes, func(a, b RemoteConfig) int { return strings.Compare(a.Name, b.Name) })
	b, err := json.MarshalIndent(list, "", "  ")
	if err == nil {
		err = disk.WriteFile(disk.OS, filepath.Join(m.dir, remotesFile), append(b, '\n'), true)
	}
	if err != nil {
		return fmt.Errorf("arcstore: remotes: %w", err)
	}
	return nil
}

// AddRemote adds a remote to the store: ErrExists if the name is taken.
func (m *Manager) AddRemote(ctx context.Context, c RemoteConfig) error {
	if err := c.check(); err != nil {
		return err
	}
	return m.changeRemotes(ctx, func(list *remotesList) error {
		for _, o := range list.Remotes {
			if o.Name == c.Name {
				return fmt.Errorf("arcstore: remote %s: %w: it is %s", c.Name, ErrExists, o.URL)
			}
		}
		list.Remotes = append(list.Remotes, c)
		return nil
	})
}

// CheckRemote reports why snapshots of the store cannot be in a bucket, if they cannot.
func (m *Manager) CheckRemote(ctx context.Context, c RemoteConfig) error {
	r, err := OpenRemoteAt(ctx, c, &RemoteOptions{key: m.store.Key()})
	if err != nil {
		return err
	}
	defer r.Close()
	return wrapRemote(r.r.Fits(ctx, m.store))
}

// RemoveRemote forgets a remote, and what was kept of it here. The bucket stays as it is.
func (m *Manager) RemoveRemote(ctx context.Context, name string) error {
	return m.changeRemotes(ctx, func(list *remotesList) error {
		at := slices.IndexFunc(list.Remotes, func(c RemoteConfig) bool { return c.Name == name })
		if at < 0 {
			return noRemote(name)
		}
		list.Remotes = slices.Delete(list.Remotes, at, at+1)
		if err := os.RemoveAll(filepath.Join(m.dir, remotesName, name)); err != nil {
			return fmt.Errorf("arcstore: %w", err)
		}
		return nil
	})
}

func noRemote(name string) error {
	return fmt.Errorf("arcstore: %w: there is no remote %q", ErrNoRemote, name)
}

// remoteConfig returns the remote of that name; "" is the only one that there is.
func (m *Manager) remoteConfig(name string) (RemoteConfig, error) {
	all, err := m.Remotes()
	if err != nil {
		return RemoteConfig{}, err
	}
	if name == "" {
		switch len(all) {
		case 0:
			return RemoteConfig{}, fmt.Errorf("arcstore: %w: the store has no remote", ErrNoRemote)
		case 1:
			return all[0], nil
		}
		return RemoteConfig{}, fmt.Errorf("arcstore: %w: the store has %d remotes: name one", ErrNoRemote, len(all))
	}
	for _, c := range all {
		if c.Name == name {
			return c, nil
		}
	}
	return RemoteConfig{}, noRemote(name)
}

// OpenRemote opens a remote of the store by its name; "" is the only one that it has. It must be closed.
func (m *Manager) OpenRemote(ctx context.Context, name string, opts *RemoteOptions) (*Remote, error) {
	if opts == nil {
		opts = &RemoteOptions{}
	}
	c, err := m.remoteConfig(name)
	if err != nil {
		return nil, err
	}
	b, err := c.bucket(opts)
	if err != nil {
		return nil, err
	}
	o := *opts
	if o.CacheDir = filepath.Join(m.dir, remotesName, c.Name); o.NoCache {
		o.CacheDir = ""
	}
	o.key = m.store.Key()
	return OpenBucket(ctx, b, &o)
}

// OpenRemoteAt opens a remote without a store. It must be closed.
func OpenRemoteAt(ctx context.Context, c RemoteConfig, opts *RemoteOptions) (*Remote, error) {
	if opts == nil {
		opts = &RemoteOptions{}
	}
	b, err := c.bucket(opts)
	if err != nil {
		return nil, err
	}
	return OpenBucket(ctx, b, opts)
}

// InitFromRemote makes a store in dir that fits what is in a bucket, with its key if it is encrypted, and adds the bucket to it as a remote.
// secret is asked for what opens the bucket, and opens the store from then on.
func InitFromRemote(ctx context.Context, dir string, c RemoteConfig, secret func() (Secret, error)) error {
	if err := c.check(); err != nil {
		return err
	}
	r, err := OpenRemoteAt(ctx, c, &RemoteOptions{Secret: secret})
	if err != nil {
		return err
	}
	defer r.Close()
	if r.Snapshots == nil {
		return fmt.Errorf("arcstore: %s: %w: nothing was pushed there yet", c.URL, ErrNotFound)
	}
	opts := &InitOptions{ChunkSize: r.Snapshots.ChunkSize(), Compression: r.Snapshots.Compression()}
	var slots []crypt.Slot
	if key := r.r.Key(); key != nil {
		if slots, err = r.r.Slots(ctx); err != nil {
			return wrapRemote(err)
		}
	}
	if err := initWithKey(disk.OS, dir, opts, r.r.Key(), slots); err != nil {
		return err
	}
	m, err := Open(ctx, dir, &Options{ReadOnly: true, key: r.r.Key()})
	if err != nil {
		return err
	}
	defer m.Close()
	return m.AddRemote(ctx, c)
}
