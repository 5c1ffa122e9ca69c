package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/arcboxlabs/arcstore/cmd/ui"
)

// uiTokenVariable chooses the token of the page.
const uiTokenVariable = "ARCSTORE_UI_TOKEN"

// uiTokenFile is where a store keeps the token of its page.
const uiTokenFile = "ui.token"

// minUIToken is how long a token is at least that somebody chose.
const minUIToken = 12

// pageTimeout is how long who connects may take to say what for.
const pageTimeout = 30 * time.Second

// openPages answers at the addresses that were asked for, until closePages.
func (s *service) openPages() (closePages func(), err error) {
	var closers []func()
	closePages = func() {
		for _, c := range closers {
			c()
		}
	}
	open := func(flag, address string, h http.Handler) (*net.TCPAddr, error) {
		l, err := listenTCP(flag, address)
		if err != nil {
			return nil, err
		}
		server := &http.Server{Handler: h, ReadHeaderTimeout: pageTimeout}
		go server.Serve(l)
		closers = append(closers, func() { server.Close() })
		at := l.Addr().(*net.TCPAddr)
		if !at.IP.IsLoopback() {
			s.log.Warn("others on the network can reach it, and what is sent is not encrypted", "flag", "--"+flag, "address", at.String())
		}
		return at, nil
	}
	if s.opt.metrics != "" {
		mux := http.NewServeMux()
		mux.Handle("GET /metrics", s.metricsHandler())
		if _, err := open("metrics", s.opt.metrics, mux); err != nil {
			return nil, err
		}
	}
	if s.opt.ui != "" {
		token, where, err := s.uiToken()
		if err != nil {
			closePages()
			return nil, err
		}
		page, err := ui.New(ui.Options{Store: s.m, Name: s.app.store, Runner: s.runner, Jobs: &s.jobs, Token: token, Log: s.log})
		if err == nil {
			closers = append(closers, page.Close)
			var at *net.TCPAddr
			if at, err = open("ui", s.opt.ui, page); err == nil {
				s.log.Info("a page to look at", "url", "http://"+at.String()+"/", "token", where)
			}
		}
		if err != nil {
			closePages()
			return nil, err
		}
	}
	return closePages, nil
}

// listenTCP listens at an address; one without a host is on this machine alone.
func listenTCP(flag, address string) (net.Listener, error) {
	if !strings.Contains(address, ":") {
		address = ":" + address
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, usagef("--%s %q is no address, such as :8080 or 127.0.0.1:8080", flag, address)
	}
	if host == "" {
		host = "127.0.0.1"
	}
	l, err := net.Listen("tcp", net.JoinHostPort(host, port))
	if err != nil {
		return nil, fmt.Errorf("--%s: %w", flag, err)
	}
	return l, nil
}

// uiToken returns the token of the page, and where it is said.
func (s *service) uiToken() (token, where string, err error) {
	if token = os.Getenv(uiTokenVariable); token != "" {
		if len(token) < minUIToken {
			return "", "", usagef("%s is too short to be a secret: give it %d characters or more", uiTokenVariable, minUIToken)
		}
		return token, "in $" + uiTokenVariable, nil
	}
	name := filepath.Join(s.app.store, uiTokenFile)
	b, err := os.ReadFile(name)
	if token = strings.TrimSpace(string(b)); err == nil && len(token) >= minUIToken {
		return token, "in " + name, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", "", err
	}
	token = rand.Text()
	return token, "in " + name, os.WriteFile(name, []byte(token+"\n"), 0o600)
}

// metricsHandler has the figures.
func (s *service) metricsHandler() http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(s.metrics, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{})
}
