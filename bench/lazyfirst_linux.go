package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/arcboxlabs/arcstore"
	"github.com/arcboxlabs/arcstore/bench/s3server"
	"github.com/arcboxlabs/arcstore/bench/vmm"
)

// roundTrip is that of the server that is not on this machine.
const roundTrip = 20 * time.Millisecond

// measureFirstPage measures how long it takes from the request to run a guest of 8 GiB until it has its first page: the
// store is opened, and the snapshot, its memory handed over, and a page in the middle loaded.
func (l *lazyBench) measureFirstPage() error {
	memory := filepath.Join(l.dir, "large")
	middle, err := l.makeLarge(memory)
	if err != nil {
		return err
	}
	store, err := l.lazySnapshot("lazy-large", memory)
	if err != nil {
		return err
	}
	run := func(name string, open opener, opts arcstore.FaultOptions) error {
		start := time.Now()
		s, err := l.serve(open, opts)
		if err != nil {
			return err
		}
		took := time.Since(start)
		v, err := l.startVMM(memory, vmm.Config{Socket: s.path, Late: true}) // it is there before the request, really
		if err != nil {
			return err
		}
		done, err := touchAll(v, vmm.Do{Touch: []int64{middle}})
		if err != nil {
			return err
		}
		v.Close()
		l.times[name] = append(l.times[name], took.Seconds()+float64(done.Elapsed)/1e9)
		return s.end()
	}
	for range l.rounds {
		if err := run("8 GiB, local", openOnly(l.ctx, store), arcstore.FaultOptions{}); err != nil {
			return err
		}
	}
	l.add(Result{Step: "lazy", What: "first page of a guest of 8 GiB (ms), local", Value: 1000 * l.times.median("8 GiB, local"), Bar: 20, AtMost: true})
	open, end, err := l.bucket(store)
	if err != nil || open == nil {
		return err
	}
	defer end()
	for range l.rounds {
		if err := run("8 GiB, bucket", open, arcstore.FaultOptions{}); err != nil {
			return err
		}
	}
	l.add(Result{Step: "lazy", What: "first page of a guest of 8 GiB (ms), from a server 20 ms away", Value: 1000 * l.times.median("8 GiB, bucket"), Bar: 150, AtMost: true})
	return nil
}

// makeLarge makes a memory of 8 GiB: eight times that of a guest, each time with other pages. It returns a page with data in the middle.
func (l *lazyBench) makeLarge(name string) (middle int64, err error) {
	in, err := os.Open(l.inputs[0])
	if err != nil {
		return 0, err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return 0, err
	}
	out, err := os.Create(name)
	if err != nil {
		return 0, err
	}
	defer out.Close()
	if err := out.Truncate(lazyGuest); err != nil {
		return 0, err
	}
	pages, err := dataPages(l.inputs[0])
	if err != nil {
		return 0, err
	}
	b := make([]byte, page)
	for copied := range lazyGuest / info.Size() {
		for _, p := range pages {
			if _, err := in.ReadAt(b, p*page); err != nil {
				return 0, err
			}
			b[17] += byte(copied)
			b[18] ^= 0xff
			if _, err := out.WriteAt(b, copied*info.Size()+p*page); err != nil {
				return 0, err
			}
		}
	}
	return lazyGuest/page/2 + pages[len(pages)/2], nil
}

// bucket pushes the snapshots of a store to a server behind a long way, and returns what opens it there; nil where there is no server.
func (l *lazyBench) bucket(store string) (open opener, end func(), err error) {
	server, err := s3server.Start(l.ctx, s3server.Kinds[0], filepath.Join(l.dir, "s3-"+filepath.Base(store)))
	var missing *s3server.Missing
	if errors.As(err, &missing) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	client, err := minio.New(server.Endpoint[len("http://"):], &minio.Options{Creds: credentials.NewStaticV4(server.Access, server.Secret, "")})
	if err == nil {
		err = client.MakeBucket(l.ctx, benchBucket, minio.MakeBucketOptions{})
	}
	if err != nil {
		server.Stop()
		return nil, nil, err
	}
	proxy, err := s3server.NewProxy(server, 1, s3server.Faults{})
	if err != nil {
		server.Stop()
		return nil, nil, err
	}
	end = func() {
		proxy.Close()
		server.Stop()
	}
	for k, v := range map[string]string{"AWS_ACCESS_KEY_ID": server.Access, "AWS_SECRET_ACCESS_KEY": server.Secret, "AWS_REGION": "us-east-1"} {
		os.Setenv(k, v)
	}
	config := arcstore.RemoteConfig{Name: "far", URL: "s3://" + benchBucket + "/far", Endpoint: proxy.Endpoint}
	if err := l.pushAll(store, config); err != nil {
		end()
		return nil, nil, err
	}
	proxy.Set(s3server.Faults{Latency: roundTrip})
	return func() (*arcstore.Manager, func() error, error) {
		r, err := arcstore.OpenRemoteAt(l.ctx, config, nil)
		if err != nil {
			return nil, nil, err
		}
		return r.Snapshots, r.Close, nil
	}, end, nil
}

// pushAll pushes the snapshots of a store.
func (l *lazyBench) pushAll(store string, config arcstore.RemoteConfig) error {
	m, err := arcstore.Open(l.ctx, store, nil)
	if err != nil {
		return err
	}
	defer m.Close()
	if err := m.AddRemote(l.ctx, config); err != nil {
		return err
	}
	defer m.RemoveRemote(l.ctx, config.Name)
	r, err := m.OpenRemote(l.ctx, config.Name, nil)
	if err != nil {
		return err
	}
	defer r.Close()
	_, err = r.Push(l.ctx, m, nil, nil)
	return err
}

// fromBucket is measureWorkingSet from a bucket.
func (l *lazyBench) fromBucket(store string, run func(string, opener, arcstore.FaultOptions) error) error {
	open, end, err := l.bucket(store)
	if err != nil || open == nil {
		return err
	}
	defer end()
	for range min(l.rounds, 3) {
		if err := run("bucket, without", open, arcstore.FaultOptions{NoWorkingSet: true}); err != nil {
			return err
		}
		if err := run("bucket, with", open, arcstore.FaultOptions{}); err != nil {
			return err
		}
	}
	l.add(Result{Step: "lazy", What: "a tenth of the data, without / with the working set, from a server 20 ms away", Value: l.times.median("bucket, without") / l.times.median("bucket, with"), Bar: 3,
		Detail: l.times.detail("bucket, without", "bucket, with")})
	return nil
}
