// Package s3server starts real S3 servers on loopback, for tests and benchmarks: [Start]. A [Proxy] in front of one
// makes the network as bad as it gets.
package s3server

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Kind is a make of server.
type Kind struct {
	Name     string // as it stands in $ARCSTORE_TEST_REQUIRE
	variable string // names the environment variable that says where the program is
	module   string // that the program is made from
	args     func(address, dir string) []string
	env      func(access, secret string) []string
}

// The servers that there are.
var (
	Versitygw = Kind{
		Name: "versitygw", variable: "ARCSTORE_VERSITYGW", module: "github.com/versity/versitygw/cmd/versitygw@v1.8.0",
		args: func(address, dir string) []string {
			return []string{"--port", address, "posix", "--versioning-dir", filepath.Join(filepath.Dir(dir), "versions"), dir}
		},
		env: func(access, secret string) []string {
			return []string{"ROOT_ACCESS_KEY=" + access, "ROOT_SECRET_KEY=" + secret}
		},
	}
	MinIO = Kind{
		Name: "minio", variable: "ARCSTORE_MINIO", module: "github.com/minio/minio@v0.0.0-20260212201848-7aac2a2c5b7c",
		args: func(address, dir string) []string {
			return []string{"server", "--quiet", "--address", address, "--console-address", "127.0.0.1:0", dir}
		},
		env: func(access, secret string) []string {
			return []string{"MINIO_ROOT_USER=" + access, "MINIO_ROOT_PASSWORD=" + secret, "MINIO_UPDATE=off", "MINIO_CI_CD=1"}
		},
	}
	Kinds = []Kind{Versitygw, MinIO}
)

// Missing says that this machine lacks a server.
type Missing struct {
	Part string
	Text string
}

func (m *Missing) Error() string { return m.Text }

// Excuse returns why a test or a benchmark may be skipped, if it may: a server is missing that is not required.
func Excuse(err error) (why string, ok bool) {
	var m *Missing
	if !errors.As(err, &m) || slices.Contains(strings.Split(os.Getenv("ARCSTORE_TEST_REQUIRE"), ","), m.Part) {
		return "", false
	}
	return m.Text, true
}

// find returns the path of the program.
func (k Kind) find() (string, error) {
	if path := os.Getenv(k.variable); path != "" {
		return path, nil
	}
	path, err := exec.LookPath(k.Name)
	if err != nil {
		return "", &Missing{k.Name, fmt.Sprintf("%s is missing: go install %s, and put it in PATH or set %s", k.Name, k.module, k.variable)}
	}
	return path, nil
}

// Server is a server that runs.
type Server struct {
	Endpoint       string // its URL
	Access, Secret string // keys
	kind           Kind
	program, dir   string
	cmd            *exec.Cmd
	log            bytes.Buffer
	done           chan struct{}
}

// patience is how long a server may take to start.
const patience = 30 * time.Second

// Start starts a server that keeps its objects below dir. Stop must be called; it also ends with this process.
func Start(ctx context.Context, k Kind, dir string) (*Server, error) {
	program, err := k.find()
	if err != nil {
		return nil, err
	}
	data := filepath.Join(dir, "objects")
	for _, d := range []string{data, filepath.Join(dir, "versions")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, fmt.Errorf("s3server: %w", err)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("s3server: %w", err)
	}
	s := &Server{Endpoint: "http://" + l.Addr().String(), Access: "test" + random(6), Secret: random(20), kind: k, program: program, dir: dir}
	l.Close()
	if err := s.Start(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

// Start starts a server again that was stopped, with all that it had.
func (s *Server) Start(ctx context.Context) error {
	s.log.Reset()
	s.done = make(chan struct{})
	s.cmd = exec.Command(s.program, s.kind.args(strings.TrimPrefix(s.Endpoint, "http://"), filepath.Join(s.dir, "objects"))...)
	s.cmd.Dir, s.cmd.Stdout, s.cmd.Stderr = s.dir, &s.log, &s.log
	s.cmd.Env = append(os.Environ(), s.kind.env(s.Access, s.Secret)...)
	dieWithParent(s.cmd)
	if err := s.cmd.Start(); err != nil {
		return fmt.Errorf("s3server: %w", err)
	}
	cmd, done := s.cmd, s.done
	go func() {
		cmd.Wait()
		close(done)
	}()
	if err := s.await(ctx); err != nil {
		s.Stop()
		return fmt.Errorf("s3server: %s does not start: %w\n%s", s.kind.Name, err, s.log.String())
	}
	return nil
}

func random(n int) string {
	b := make([]byte, n)
	rand.Read(b)
	return hex.EncodeToString(b)
}

// await waits until the server answers requests, of which it refuses those without a signature.
func (s *Server) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, s.Endpoint+"/", nil)
		if err != nil {
			return err
		}
		answer, err := http.DefaultClient.Do(r)
		if err == nil {
			answer.Body.Close()
			if answer.StatusCode != http.StatusServiceUnavailable {
				return nil
			}
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-s.done:
			return errors.New("it ended")
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Environ returns the environment variables with which programs log in to the server.
func (s *Server) Environ() []string {
	return []string{"AWS_ACCESS_KEY_ID=" + s.Access, "AWS_SECRET_ACCESS_KEY=" + s.Secret, "AWS_REGION=us-east-1", "AWS_ENDPOINT_URL=" + s.Endpoint}
}

// Stop ends the server.
func (s *Server) Stop() {
	s.cmd.Process.Kill()
	<-s.done
}
