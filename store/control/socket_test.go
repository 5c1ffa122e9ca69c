package control

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
)

const knockVariable = "ARCSTORE_TEST_KNOCK"

// TestMain may be a process that knocks at a socket and says what it hears.
func TestMain(m *testing.M) {
	if at := os.Getenv(knockVariable); at != "" {
		os.Exit(knock(at))
	}
	os.Exit(m.Run())
}

func knock(at string) int {
	c, err := net.Dial("unix", at)
	if err != nil {
		fmt.Println("no way in:", err)
		return 0
	}
	fmt.Fprintf(c, "GET / HTTP/1.0\r\n\r\n")
	line, err := bufio.NewReader(c).ReadString('\n')
	fmt.Printf("%q %v\n", line, err)
	return 0
}

func serve(t *testing.T, dir string) {
	t.Helper()
	l, err := Listen(dir)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: Handle(nil, func(context.Context, *http.Request, struct{}, *Events) (string, error) { return "hello", nil })}
	go s.Serve(l)
	t.Cleanup(func() {
		s.Close()
		if _, err := os.Lstat(filepath.Join(dir, SocketName)); err == nil {
			t.Error("the socket stayed")
		}
	})
}

func ask(dir string) (answer string, err error) {
	c, err := Dial(context.Background(), dir, nil)
	if err != nil {
		return "", err
	}
	defer c.Close()
	return answer, c.Call(context.Background(), "GET", "/", nil, &answer, nil)
}

func TestSocket(t *testing.T) {
	dirs := []string{t.TempDir()}
	if runtime.GOOS == "linux" {
		dirs = append(dirs, filepath.Join(t.TempDir(), strings.Repeat("long", 40)))
	}
	for _, dir := range dirs {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if _, err := ask(dir); !errors.Is(err, ErrNobody) {
			t.Errorf("nobody is there: %v", err)
		}
		// What a process left that was killed.
		if err := os.WriteFile(filepath.Join(dir, SocketName), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := ask(dir); !errors.Is(err, ErrNobody) {
			t.Errorf("nobody answers: %v", err)
		}
		serve(t, dir)
		info, err := os.Lstat(filepath.Join(dir, SocketName))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%v, %v", info.Mode(), err)
		}
		if answer, err := ask(dir); answer != "hello" || err != nil {
			t.Errorf("%q, %v", answer, err)
		}
	}
}

// TestStranger: a process of another user hears nothing, even where the file system lets it in.
func TestStranger(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can start a process of another user: run the tests as root")
	}
	dir, err := os.MkdirTemp("/tmp", "control")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	serve(t, dir)
	at := filepath.Join(dir, SocketName)
	for _, path := range []string{dir, at} {
		if err := os.Chmod(path, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	// The test binary lies where others cannot go.
	self := filepath.Join(dir, "knock")
	if b, err := os.ReadFile(os.Args[0]); err != nil || os.WriteFile(self, b, 0o755) != nil {
		t.Fatal(err)
	}
	for uid, want := range map[uint32]string{0: `"HTTP/1.0 200 OK\r\n" <nil>`, 65534: `""`} {
		cmd := exec.Command(self)
		cmd.Env = append(os.Environ(), knockVariable+"="+at)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.HasPrefix(string(out), want) {
			t.Errorf("user %d hears %s, %v", uid, out, err)
		}
	}
}
