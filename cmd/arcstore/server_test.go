package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/arcboxlabs/arcstore/bench/s3server"
)

// patienceVariable shortens, in tests, for how long the program tries what may pass.
const patienceVariable = "ARCSTORE_TEST_PATIENCE"

// testMain is the program, with its patience.
func testMain() {
	if d, err := time.ParseDuration(os.Getenv(patienceVariable)); err == nil {
		patience = d
	}
	if os.Getenv(servedVariable) == "" {
		main()
	}
	os.Exit(runServed(os.Args[1:]))
}

// startServer starts a real S3 server, or skips.
func startServer(t *testing.T, k s3server.Kind) *s3server.Server {
	t.Helper()
	s, err := s3server.Start(context.Background(), k, t.TempDir())
	if why, ok := s3server.Excuse(err); ok {
		t.Skip(why)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	return s
}

// serverClient returns a client that shares nothing with the program.
func serverClient(s *s3server.Server) (*minio.Client, error) {
	return minio.New(strings.TrimPrefix(s.Endpoint, "http://"), &minio.Options{Creds: credentials.NewStaticV4(s.Access, s.Secret, ""), Region: "us-east-1"})
}

// makeBucket makes a bucket, with object lock or versions if it is to have them. It waits for a server that has just started.
func makeBucket(s *s3server.Server, name string, locked, versioned bool) error {
	c, err := serverClient(s)
	if err != nil {
		return err
	}
	ctx := context.Background()
	for again := 0; ; again++ {
		if err = c.MakeBucket(ctx, name, minio.MakeBucketOptions{ObjectLocking: locked}); err == nil || again == 50 {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	if err == nil && versioned {
		err = c.EnableVersioning(ctx, name)
	}
	return err
}

// objects lists the keys in a bucket, or where versions is set, all versions of them and the markers of what was deleted.
func objects(c *minio.Client, bucket, prefix string, versions bool) (keys []string, err error) {
	for o := range c.ListObjects(context.Background(), bucket, minio.ListObjectsOptions{Prefix: prefix, Recursive: true, WithVersions: versions}) {
		if o.Err != nil {
			return nil, o.Err
		}
		keys = append(keys, o.Key)
	}
	return keys, nil
}

// eachVersion calls do with all versions of objects.
func eachVersion(c *minio.Client, bucket, prefix string, do func(minio.ObjectInfo) error) error {
	for o := range c.ListObjects(context.Background(), bucket, minio.ListObjectsOptions{Prefix: prefix, Recursive: true, WithVersions: true}) {
		if o.Err == nil {
			o.Err = do(o)
		}
		if o.Err != nil {
			return o.Err
		}
	}
	return nil
}

// TestBucketScripts runs the scripts in testdata/bucket against each server that there is, and once more beside a process that serves the store.
func TestBucketScripts(t *testing.T) {
	for i, k := range s3server.Kinds {
		t.Run(k.Name, func(t *testing.T) { runBucketScripts(t, k, false) })
		if i == 0 {
			t.Run(k.Name+", served", func(t *testing.T) { runBucketScripts(t, k, true) })
		}
	}
}

func runBucketScripts(t *testing.T, k s3server.Kind, served bool) {
	s := startServer(t, k)
	others := scriptCondition(served)
	testscript.Run(t, testscript.Params{
		Dir: filepath.Join("testdata", "bucket"),
		Setup: func(env *testscript.Env) error {
			if err := setupScript(env); err != nil {
				return err
			}
			if served {
				env.Setenv(servedVariable, "yes")
			}
			env.Setenv("SERVER", k.Name)
			useServer(env.Setenv, s)
			env.Values[serverKey] = &scriptState{s, k}
			name := strings.TrimPrefix(filepath.Base(env.WorkDir), "script-")
			env.Setenv("BUCKET", name)
			env.Setenv("URL", "s3://"+name+"/fleet")
			return makeBucket(s, name, false, false)
		},
		Condition: func(cond string) (bool, error) {
			if name, ok := strings.CutPrefix(cond, "server:"); ok {
				return name == k.Name, nil
			}
			return others(cond)
		},
		Cmds: scriptCommands,
	})
}

// serverKey is where a script's environment has its server.
const serverKey = "server"

func useServer(set func(key, value string), s *s3server.Server) {
	for _, v := range s.Environ() {
		key, value, _ := strings.Cut(v, "=")
		set(key, value)
	}
}

// scriptServer is "s3 VERB ...", which does something to the server and not through the program:
//
//	s3 own                        another server, for this script alone
//	s3 stop, s3 start             that server goes, and comes back
//	s3 bucket NAME [locked|versioned]
//	s3 put BUCKET KEY TEXT
//	s3 delete BUCKET KEY
//	s3 lose BUCKET PREFIX         all that is there
//	s3 retain BUCKET PREFIX DAYS  all that is there
//	s3 hold BUCKET PREFIX         all that is there, with a legal hold
//	s3 release BUCKET PREFIX      these
//	s3 count BUCKET PREFIX N      there are so many objects; with versions as a last argument, versions
func scriptServer(ts *testscript.TestScript, neg bool, args []string) {
	s, _ := ts.Value(serverKey).(*scriptState)
	if s == nil || len(args) == 0 {
		ts.Fatalf("usage: s3 VERB ...")
	}
	ts.Check(s.do(ts, neg, args[0], args[1:]))
}

// scriptState is the server of a script.
type scriptState struct {
	server *s3server.Server
	kind   s3server.Kind
}

func (s *scriptState) do(ts *testscript.TestScript, neg bool, verb string, args []string) error {
	ctx := context.Background()
	c, err := serverClient(s.server)
	if err != nil {
		return err
	}
	arg := func(i int) string {
		if i >= len(args) {
			ts.Fatalf("s3 %s: too few arguments", verb)
		}
		return args[i]
	}
	switch verb {
	case "own":
		own, err := s3server.Start(ctx, s.kind, ts.MkAbs("own"))
		if err != nil {
			return err
		}
		s.server = own
		ts.Defer(own.Stop)
		useServer(ts.Setenv, own)
		return makeBucket(own, ts.Getenv("BUCKET"), false, false)
	case "stop":
		s.server.Stop()
		return nil
	case "start":
		return s.server.Start(ctx)
	case "bucket":
		how := strings.Join(args[1:], "")
		return makeBucket(s.server, arg(0), how == "locked", how == "versioned")
	case "put":
		_, err := c.PutObject(ctx, arg(0), arg(1), strings.NewReader(arg(2)), int64(len(arg(2))), minio.PutObjectOptions{})
		return err
	case "delete":
		return c.RemoveObject(ctx, arg(0), arg(1), minio.RemoveObjectOptions{})
	case "lose":
		return eachVersion(c, arg(0), arg(1), func(o minio.ObjectInfo) error {
			return c.RemoveObject(ctx, arg(0), o.Key, minio.RemoveObjectOptions{VersionID: o.VersionID})
		})
	case "retain":
		mode, until := minio.Compliance, time.Now().AddDate(0, 0, scriptInt(ts, arg(2)))
		return eachVersion(c, arg(0), arg(1), func(o minio.ObjectInfo) error {
			return c.PutObjectRetention(ctx, arg(0), o.Key, minio.PutObjectRetentionOptions{Mode: &mode, RetainUntilDate: &until, VersionID: o.VersionID})
		})
	case "hold", "release":
		status := minio.LegalHoldEnabled
		if verb == "release" {
			status = minio.LegalHoldDisabled
		}
		return eachVersion(c, arg(0), arg(1), func(o minio.ObjectInfo) error {
			return c.PutObjectLegalHold(ctx, arg(0), o.Key, minio.PutObjectLegalHoldOptions{VersionID: o.VersionID, Status: &status})
		})
	case "count":
		keys, err := objects(c, arg(0), arg(1), len(args) > 3)
		if err == nil && (len(keys) == scriptInt(ts, arg(2))) == neg {
			ts.Fatalf("there are %d: %s", len(keys), strings.Join(keys, " "))
		}
		return err
	}
	ts.Fatalf("s3 %s: what is that?", verb)
	return nil
}
