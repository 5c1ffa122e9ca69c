package processes

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Redis starts a redis-server on loopback, without persistence, and returns a client that is connected to it.
func Redis(ctx context.Context, dir string) (*Process, *RedisClient, error) {
	path, err := program("criu", "redis-server", "apt-get install redis-server")
	if err == nil {
		_, err = program("criu", "iptables", "apt-get install iptables, with which CRIU keeps connections quiet")
	}
	if err != nil {
		return nil, nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	address := l.Addr().String()
	l.Close()
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, nil, err
	}
	config := filepath.Join(dir, "redis.conf")
	text := fmt.Sprintf("bind 127.0.0.1\nport %s\nsave \"\"\nappendonly no\ndaemonize no\ndir %s\nlogfile %s\n", port, dir, filepath.Join(dir, "redis.log"))
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, nil, err
	}
	p := &Process{}
	if err := p.start(dir, path, config); err != nil {
		return nil, nil, err
	}
	var client *RedisClient
	err = p.await(ctx, "redis does not answer", func() (bool, error) {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			return false, nil
		}
		client = &RedisClient{conn: conn, in: bufio.NewReader(conn)}
		return true, nil
	})
	if err != nil {
		p.Stop()
		return nil, nil, err
	}
	return p, client, nil
}

// RedisClient is a connection to a redis-server. One goroutine uses it.
type RedisClient struct {
	conn net.Conn
	in   *bufio.Reader
}

// Close closes the connection.
func (c *RedisClient) Close() error { return c.conn.Close() }

// Do sends a command and returns the answer: a status, a number or a value.
func (c *RedisClient) Do(args ...string) (string, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "*%d\r\n", len(args))
	for _, arg := range args {
		fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(arg), arg)
	}
	if err := c.conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	if _, err := c.conn.Write([]byte(b.String())); err != nil {
		return "", err
	}
	line, err := c.in.ReadString('\n')
	if err != nil {
		return "", err
	}
	line = strings.TrimRight(line, "\r\n")
	switch {
	case line == "":
		return "", fmt.Errorf("processes: redis gives an empty answer")
	case line[0] == '-':
		return "", fmt.Errorf("processes: redis: %s", line[1:])
	case line[0] != '$':
		return line[1:], nil
	}
	n, err := strconv.Atoi(line[1:])
	if err != nil || n < 0 {
		return "", fmt.Errorf("processes: redis has no value (%s)", line)
	}
	value := make([]byte, n+2)
	for at := 0; at < len(value); {
		m, err := c.in.Read(value[at:])
		if err != nil {
			return "", err
		}
		at += m
	}
	return string(value[:n]), nil
}
