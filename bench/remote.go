package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"github.com/arcboxlabs/arcstore"
	"github.com/arcboxlabs/arcstore/bench/s3server"
)

const (
	benchBucket = "bench"
	// plainGets is how many plain GETs are under way at once: as many as arcstore's.
	plainGets = 16
	gigabit   = 125_000_000 // bytes a second
)

// remoteBench measures a bucket on one server.
type remoteBench struct {
	*bench
	server *s3server.Server
	client *minio.Client
	name   string // of the server
	times  times
}

// remote measures pushes and restores against plain uploads and downloads, through real servers on this machine.
func (b *bench) remote() error {
	tried := 0
	for _, kind := range s3server.Kinds {
		server, err := s3server.Start(b.ctx, kind, filepath.Join(b.dir, kind.Name))
		var missing *s3server.Missing
		if errors.As(err, &missing) {
			fmt.Fprintln(os.Stderr, "bench:", err)
			continue
		}
		if err != nil {
			return err
		}
		tried++
		r := &remoteBench{bench: b, server: server, name: kind.Name, times: make(times)}
		err = r.run()
		server.Stop()
		if err != nil {
			return fmt.Errorf("%s: %w", kind.Name, err)
		}
	}
	if tried == 0 {
		return errors.New("there is no server to measure against")
	}
	return nil
}

func (r *remoteBench) run() error {
	var err error
	r.client, err = minio.New(r.server.Endpoint[len("http://"):], &minio.Options{Creds: credentials.NewStaticV4(r.server.Access, r.server.Secret, "")})
	if err != nil {
		return err
	}
	if err := r.client.MakeBucket(r.ctx, benchBucket, minio.MakeBucketOptions{}); err != nil {
		return err
	}
	for k, v := range map[string]string{"AWS_ACCESS_KEY_ID": r.server.Access, "AWS_SECRET_ACCESS_KEY": r.server.Secret, "AWS_ENDPOINT_URL": r.server.Endpoint, "AWS_REGION": "us-east-1"} {
		os.Setenv(k, v)
	}
	m, err := r.newStore("remote-"+r.name, "lz4")
	if err != nil {
		return err
	}
	defer m.Close()
	first, err := snapshot(r.ctx, m, "vm", r.inputs[0], nil)
	if err != nil {
		return err
	}
	packs, err := filepath.Glob(filepath.Join(r.bench.dir, "remote-"+r.name, "packs", "*", "*"))
	if err != nil {
		return err
	}
	for i := range r.rounds {
		if err := r.round(m, first, packs, fmt.Sprintf("round%d", i)); err != nil {
			return err
		}
	}
	size := 0.0
	for _, p := range packs {
		info, err := os.Stat(p)
		if err != nil {
			return err
		}
		size += float64(info.Size())
	}
	t := r.times
	push := t.detail("push", "plain multipart upload", "packs one by one")
	push["bytes (MiB)"] = size / (1 << 20)
	r.add(Result{Step: "remote", What: r.name + ": push, rate against a multipart upload", Value: t.median("plain multipart upload") / t.median("push"), Bar: 0.8, Detail: push})
	r.add(Result{Step: "remote", What: r.name + ": restore, rate against parallel GETs", Value: t.median("plain GETs") / t.median("restore"), Bar: 0.7,
		Detail: t.detail("restore", "plain GETs", "plain GETs, dropped", "restore from the store")})
	r.add(Result{Step: "remote", What: r.name + ": restore, rate against parallel GETs, both at 1 Gbit/s", Value: t.median("plain GETs at 1 Gbit/s") / t.median("restore at 1 Gbit/s"),
		Detail: t.detail("restore at 1 Gbit/s", "plain GETs at 1 Gbit/s")})
	if err := r.sharing(m, size); err != nil {
		return err
	}
	return r.peaks()
}

// config says where a prefix of the bucket is.
func (r *remoteBench) config(prefix string) arcstore.RemoteConfig {
	return arcstore.RemoteConfig{Name: prefix, URL: "s3://" + benchBucket + "/" + prefix}
}

// round pushes, uploads the same bytes plainly, restores, and downloads them plainly.
func (r *remoteBench) round(m *arcstore.Manager, s *arcstore.Snapshot, packs []string, prefix string) error {
	if err := m.AddRemote(r.ctx, r.config(prefix)); err != nil {
		return err
	}
	all := filepath.Join(r.dir, "all")
	if err := concatenate(all, packs); err != nil {
		return err
	}
	defer os.Remove(all)
	out := filepath.Join(r.dir, "out")
	t := r.times
	steps := []struct {
		name string
		run  func() error
	}{
		{"push", func() error {
			b, err := m.OpenRemote(r.ctx, prefix, nil)
			if err != nil {
				return err
			}
			defer b.Close()
			_, err = b.Push(r.ctx, m, []string{s.ID}, nil)
			return err
		}},
		{"plain multipart upload", func() error {
			_, err := r.client.FPutObject(r.ctx, benchBucket, "plain/"+prefix, all, minio.PutObjectOptions{})
			return err
		}},
		{"packs one by one", func() error { return r.putAll(packs, "single/"+prefix+"/") }},
		{"restore", func() error {
			return r.restore(prefix, s, out, 0)
		}},
		{"plain GETs", func() error { return r.getAll(packs, "single/"+prefix+"/", out, nil) }},
		{"plain GETs, dropped", func() error { return r.getAll(packs, "single/"+prefix+"/", "", nil) }},
		{"restore at 1 Gbit/s", func() error { return r.restore(prefix, s, out, gigabit) }},
		{"plain GETs at 1 Gbit/s", func() error {
			return r.getAll(packs, "single/"+prefix+"/", out, rate.NewLimiter(gigabit, gigabit/10))
		}},
		{"restore from the store", func() error {
			_, err := m.Restore(r.ctx, s.ID, out, nil)
			return err
		}},
	}
	for _, step := range steps {
		os.RemoveAll(out)
		if err := t.measure(step.name, step.run); err != nil {
			return err
		}
	}
	return os.RemoveAll(out)
}

// restore restores straight from the bucket, at most at limit bytes a second; 0 is none.
func (r *remoteBench) restore(prefix string, s *arcstore.Snapshot, out string, limit int64) error {
	b, err := arcstore.OpenRemoteAt(r.ctx, r.config(prefix), &arcstore.RemoteOptions{DownloadLimit: limit})
	if err != nil {
		return err
	}
	defer b.Close()
	_, err = b.Snapshots.Restore(r.ctx, s.ID, out, nil)
	return err
}

// limited reads at the rate that a limiter allows.
type limited struct {
	ctx context.Context
	io.Reader
	limit *rate.Limiter
}

func (l *limited) Read(p []byte) (int, error) {
	n, err := l.Reader.Read(p[:min(len(p), l.limit.Burst())])
	if n > 0 {
		if werr := l.limit.WaitN(l.ctx, n); werr != nil {
			return n, werr
		}
	}
	return n, err
}

// concatenate writes the packs into one file.
func concatenate(name string, packs []string) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer f.Close()
	for _, p := range packs {
		b, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		if _, err := f.Write(b); err != nil {
			return err
		}
	}
	return f.Close()
}

func (r *remoteBench) putAll(packs []string, prefix string) error {
	g, ctx := errgroup.WithContext(r.ctx)
	g.SetLimit(4)
	for _, p := range packs {
		g.Go(func() error {
			_, err := r.client.FPutObject(ctx, benchBucket, prefix+filepath.Base(p), p, minio.PutObjectOptions{DisableMultipart: true})
			return err
		})
	}
	return g.Wait()
}

// getAll gets the packs into files, or nowhere.
func (r *remoteBench) getAll(packs []string, prefix, dir string, limit *rate.Limiter) error {
	if dir != "" {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	g, ctx := errgroup.WithContext(r.ctx)
	g.SetLimit(plainGets)
	for _, p := range packs {
		g.Go(func() error { return r.get(ctx, prefix+filepath.Base(p), dir, limit) })
	}
	return g.Wait()
}

func (r *remoteBench) get(ctx context.Context, key, dir string, limit *rate.Limiter) error {
	o, err := r.client.GetObject(ctx, benchBucket, key, minio.GetObjectOptions{})
	if err != nil {
		return err
	}
	defer o.Close()
	body := io.Reader(o)
	if limit != nil {
		body = &limited{ctx, o, limit}
	}
	if dir == "" {
		_, err = io.Copy(io.Discard, body)
		return err
	}
	f, err := os.Create(filepath.Join(dir, filepath.Base(key)))
	if err != nil {
		return err
	}
	if _, err := io.Copy(f, body); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

// sharing measures what a second host sends, and what a push with nothing new costs.
func (r *remoteBench) sharing(m *arcstore.Manager, size float64) error {
	push := func(m *arcstore.Manager, remote string) (*arcstore.PushReport, float64, error) {
		b, err := m.OpenRemote(r.ctx, remote, nil)
		if err != nil {
			return nil, 0, err
		}
		defer b.Close()
		report, err := b.Push(r.ctx, m, nil, nil)
		return report, float64(b.Requests().Sent), err
	}
	second, err := r.newStore("remote-second", "lz4")
	if err != nil {
		return err
	}
	defer second.Close()
	if err := second.AddRemote(r.ctx, r.config("round0")); err != nil {
		return err
	}
	detail := make(map[string]float64)
	for i, in := range []string{"same-image", "other-guest"} {
		file := r.inputs[2*i]
		if _, err := snapshot(r.ctx, second, in, file, nil); err != nil {
			return err
		}
		report, requests, err := push(second, "")
		if err != nil {
			return err
		}
		detail[in+": sent (MiB)"], detail[in+": requests"] = float64(report.Bytes)/(1<<20), requests
	}
	r.add(Result{Step: "remote", What: r.name + ": a second host's push of the same image, share sent", Value: detail["same-image: sent (MiB)"] * (1 << 20) / size, Bar: 0.02, AtMost: true, Detail: detail})
	_, requests, err := push(m, "round0")
	if err != nil {
		return err
	}
	r.add(Result{Step: "remote", What: r.name + ": requests of a push with nothing new", Value: requests, Bar: 5, AtMost: true})
	return nil
}

// peaks measures the memory of a push and a restore, of a guest eight times as large.
func (r *remoteBench) peaks() error {
	large := filepath.Join(r.dir, "large")
	if err := enlarge(r.inputs[0], large, 8); err != nil {
		return err
	}
	defer os.Remove(large)
	m, err := r.newStore("remote-large", "lz4")
	if err != nil {
		return err
	}
	_, err = snapshot(r.ctx, m, "vm", large, nil)
	if err == nil {
		err = m.AddRemote(r.ctx, r.config("large"))
	}
	if err = errors.Join(err, m.Close()); err != nil {
		return err
	}
	dir, out := filepath.Join(r.dir, "remote-large"), filepath.Join(r.dir, "out")
	defer os.RemoveAll(dir)
	defer os.RemoveAll(out)
	worst, detail := 0.0, make(map[string]float64)
	for _, op := range []string{"push", "restore from afar", "pull"} {
		if op == "pull" {
			if err := errors.Join(os.RemoveAll(dir), arcstore.InitFromRemote(r.ctx, dir, r.config("large"), nil)); err != nil {
				return err
			}
		}
		n, err := r.peak(op, dir, out)
		if err != nil {
			return err
		}
		detail[op+" (MiB)"] = n / (1 << 20)
		worst = max(worst, n/(1<<20))
	}
	r.add(Result{Step: "remote", What: r.name + ": peak memory of any process, guest x 8 (MiB)", Value: worst, Bar: 400, AtMost: true, Detail: detail})
	return nil
}

// childRemote is what a child does with the store's remote.
func childRemote(ctx context.Context, m *arcstore.Manager, op, out string) error {
	r, err := m.OpenRemote(ctx, "", nil)
	if err != nil {
		return err
	}
	defer r.Close()
	switch op {
	case "push":
		_, err = r.Push(ctx, m, nil, nil)
	case "pull":
		_, err = m.Pull(ctx, r, []string{"vm@latest"}, nil)
	default:
		_, err = r.Snapshots.Restore(ctx, "vm@latest", out, nil)
	}
	return err
}
