package s3server

import (
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Faults says how often what goes wrong, each from 0 to 1.
type Faults struct {
	SlowDown float64       // answers of 503 SlowDown, instead of asking the server
	Internal float64       // answers of 500, although the server did what was asked
	Reset    float64       // connections reset before the answer, after the server did what was asked
	Cut      float64       // connections reset in the middle of an answer
	CutUp    float64       // connections reset in the middle of a request
	Delay    time.Duration // of every answer, at most
	Latency  time.Duration // of every answer, always: a round trip to a server that is not on this machine
}

// Proxy stands in front of a server and makes things go wrong.
type Proxy struct {
	Endpoint string
	Injected atomic.Int64 // faults so far

	mu     sync.Mutex
	rand   *rand.Rand
	faults Faults
	server *httptest.Server
	to     *httputil.ReverseProxy
}

// NewProxy starts a proxy on loopback. Close must be called.
func NewProxy(s *Server, seed uint64, faults Faults) (*Proxy, error) {
	target, err := url.Parse(s.Endpoint)
	if err != nil {
		return nil, err
	}
	p := &Proxy{rand: rand.New(rand.NewPCG(seed, 0)), faults: faults}
	p.to = &httputil.ReverseProxy{
		// The signature covers the host that the client asked for.
		Rewrite:        func(r *httputil.ProxyRequest) { r.SetURL(target); r.Out.Host = r.In.Host },
		ModifyResponse: p.spoil,
		ErrorLog:       log.New(io.Discard, "", 0), // of what is done on purpose
		ErrorHandler:   func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
	}
	p.server = httptest.NewServer(p)
	p.Endpoint = p.server.URL
	return p, nil
}

// Close ends the proxy.
func (p *Proxy) Close() {
	p.server.CloseClientConnections()
	p.server.Close()
}

// Set changes what goes wrong from now on.
func (p *Proxy) Set(f Faults) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults = f
}

// happens reports whether something that should happen with a probability does.
func (p *Proxy) happens(chance func(Faults) float64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.rand.Float64() >= chance(p.faults) {
		return false
	}
	p.Injected.Add(1)
	return true
}

func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	delay := p.faults.Latency + time.Duration(p.rand.Float64()*float64(p.faults.Delay))
	p.mu.Unlock()
	time.Sleep(delay)
	if p.happens(func(f Faults) float64 { return f.SlowDown }) {
		io.Copy(io.Discard, r.Body)
		answer(w, http.StatusServiceUnavailable, "SlowDown", "Please reduce your request rate.")
		return
	}
	if r.ContentLength > 4<<10 && p.happens(func(f Faults) float64 { return f.CutUp }) {
		io.CopyN(io.Discard, r.Body, r.ContentLength/2)
		reset(w)
		return
	}
	p.to.ServeHTTP(w, r)
}

// reset breaks the connection off.
func reset(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		tcp.SetLinger(0)
	}
	conn.Close()
}

// answer answers as an S3 does.
func answer(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	io.WriteString(w, `<?xml version="1.0" encoding="UTF-8"?><Error><Code>`+code+`</Code><Message>`+message+`</Message></Error>`)
}

// spoil does harm to a server's answer.
func (p *Proxy) spoil(r *http.Response) error {
	switch {
	case p.happens(func(f Faults) float64 { return f.Internal }):
		r.Body.Close()
		body := `<?xml version="1.0" encoding="UTF-8"?><Error><Code>InternalError</Code><Message>We encountered an internal error.</Message></Error>`
		r.StatusCode, r.ContentLength = http.StatusInternalServerError, int64(len(body))
		r.Header = http.Header{"Content-Type": {"application/xml"}}
		r.Body = io.NopCloser(strings.NewReader(body))
	case p.happens(func(f Faults) float64 { return f.Reset }):
		r.Body.Close()
		return io.ErrUnexpectedEOF // the error handler breaks the connection off
	case r.ContentLength > 1 && p.happens(func(f Faults) float64 { return f.Cut }):
		r.Body = &cut{ReadCloser: r.Body, left: r.ContentLength / 2}
	}
	return nil
}

// cut is a body that breaks off.
type cut struct {
	io.ReadCloser
	left int64
}

func (c *cut) Read(b []byte) (int, error) {
	if c.left <= 0 {
		return 0, io.ErrUnexpectedEOF
	}
	n, err := c.ReadCloser.Read(b[:min(int64(len(b)), c.left)])
	c.left -= int64(n)
	return n, err
}
